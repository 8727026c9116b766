//! A cluster of real processes on this machine: for `dev`, `trial`, `bench` and the integration tests.
//!
//! Every node is a child process: `serve` of the given binary. Signals go to its process id. A restart
//! uses the same flags and the port that the node had. Dropping the cluster kills what is left of it; when this
//! process itself is killed, the nodes notice, and stop.

mod costs;
mod node;
mod ready;

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::future;

pub use rustix::process::Signal;

use node::{Node, log_tail};

use crate::certs::LEAF_DAYS;
use crate::cli::commands::certs::{Existing, Mint};
use crate::cli::files;
use crate::client::Client;
use crate::net::Security;
use crate::net::stream_layer::StreamLayer;
use crate::net::tcp::TcpNetwork;
use crate::net::tls::{Tls, TlsFiles};

/// A node drains within 10 s of a SIGTERM.
const STOP_MAX: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
const CLIENT_NAME: &str = "client";

/// What to start.
#[derive(Debug, Clone)]
pub struct LocalClusterOptions {
    /// The `ferrolog` binary.
    pub binary: PathBuf,
    /// Holds the nodes' data, logs and certificates. An earlier cluster there is continued.
    pub dir: PathBuf,
    pub nodes: usize,
    /// Mutual TLS, with certificates minted under `dir`.
    pub tls: bool,
    /// Node `i` listens on this port plus `i`; without it on a free one.
    pub base_port: Option<u16>,
    /// Flags of `serve` for every node, after the usual ones.
    pub serve_args: Vec<String>,
}

impl LocalClusterOptions {
    /// Three nodes over mutual TLS on free ports.
    pub fn new(binary: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            dir: dir.into(),
            nodes: 3,
            tls: true,
            base_port: None,
            serve_args: Vec::new(),
        }
    }
}

/// The running nodes; each is spoken of by its place, from 0.
pub struct LocalCluster {
    options: LocalClusterOptions,
    nodes: Vec<Node>,
}

impl LocalCluster {
    /// Starts all nodes and waits until each is a voter and knows the leader.
    pub async fn start(options: LocalClusterOptions) -> anyhow::Result<Self> {
        let cluster = Self::start_unready(options).await?;
        cluster.wait_ready(Duration::from_secs(60)).await?;
        Ok(cluster)
    }

    /// Starts all nodes; returns when each listens.
    pub async fn start_unready(options: LocalClusterOptions) -> anyhow::Result<Self> {
        ensure!(options.nodes > 0, "a cluster has at least one node");
        files::create_private_dir(&options.dir)?;
        let names = (1..=options.nodes).map(|number| format!("n{number}"));
        let names: Vec<_> = names.collect();
        let mut cluster = Self {
            options,
            nodes: Vec::new(),
        };
        cluster.mint(&names)?;
        for (place, name) in names.into_iter().enumerate() {
            let addr = cluster.first_addr(place, &name)?;
            cluster.nodes.push(Node::new(name, addr));
        }
        for place in 0..cluster.nodes.len() {
            // In turn: the others join the first one at the port that it got.
            cluster.spawn(place).await?;
        }
        Ok(cluster)
    }

    /// Makes the certificates of these nodes that are missing, where the cluster has some.
    fn mint(&self, names: &[String]) -> anyhow::Result<()> {
        if self.options.tls {
            let mint = Mint {
                dir: &self.options.dir.join("certs"),
                hosts: &[],
                days: LEAF_DAYS,
                existing: Existing::Keep,
            };
            mint.write(names, &[CLIENT_NAME.to_owned()])?;
        }
        Ok(())
    }

    /// The name of the node that [`Self::add`] would start.
    pub fn next_name(&self) -> String {
        format!("n{}", self.nodes.len() + 1)
    }

    /// Starts one more node, whose name must be allowed; returns its place once it listens.
    pub async fn add(&mut self) -> anyhow::Result<usize> {
        let (place, name) = (self.nodes.len(), self.next_name());
        self.mint(std::slice::from_ref(&name))?;
        let addr = self.first_addr(place, &name)?;
        self.nodes.push(Node::new(name, addr));
        self.spawn(place).await?;
        Ok(place)
    }

    /// A continued cluster must come back on its ports, since its members know each other by them.
    fn first_addr(&self, place: usize, name: &str) -> anyhow::Result<String> {
        if let Some(base) = self.options.base_port {
            let port = u16::try_from(place)
                .ok()
                .and_then(|place| base.checked_add(place));
            return Ok(format!(
                "127.0.0.1:{}",
                port.context("the base port is too high for so many nodes")?
            ));
        }
        let known = files::read_if_present(&self.addr_file(name))?;
        Ok(known.map_or_else(|| "127.0.0.1:0".to_owned(), |addr| addr.trim().to_owned()))
    }

    /// Starts the node again, with the flags and the port that it had; returns when it listens.
    pub async fn restart(&mut self, place: usize) -> anyhow::Result<()> {
        ensure!(
            !self.is_running(place),
            "{} still runs",
            self.nodes[place].name
        );
        self.spawn(place).await
    }

    async fn spawn(&mut self, place: usize) -> anyhow::Result<()> {
        let (args, log) = (self.serve_args(place), self.log_path(place));
        let node = &mut self.nodes[place];
        node.spawn(&self.options.binary, &args, &log).await?;
        let (addr, addr_file) = (node.addr.clone(), self.addr_file(self.name(place)));
        files::write(&addr_file, &addr)
    }

    fn serve_args(&self, place: usize) -> Vec<String> {
        let node = &self.nodes[place];
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut args = vec!["serve".to_owned(), "--name".to_owned(), node.name.clone()];
        args.extend(["--data-dir".to_owned(), text(self.data_dir(place))]);
        args.extend(["--listen".to_owned(), node.addr.clone()]);
        match place {
            0 => {
                let others: Vec<_> = self.nodes[1..].iter().map(|node| &*node.name).collect();
                args.extend(["--bootstrap", "--allow", &others.join(",")].map(str::to_owned));
            }
            _ => args.extend(["--join".to_owned(), self.nodes[0].addr.clone()]),
        }
        match self.tls_files(&node.name) {
            None => args.push("--insecure".to_owned()),
            Some(files) => {
                args.extend(["--tls-ca".to_owned(), text(files.ca)]);
                args.extend(["--tls-cert".to_owned(), text(files.cert)]);
                args.extend(["--tls-key".to_owned(), text(files.key)]);
            }
        }
        args.push("--until-stdin-closes".to_owned());
        args.extend(self.options.serve_args.iter().cloned());
        args
    }

    /// Sends a signal by process id: `Signal::STOP` freezes a node, `Signal::CONT` lets it go on.
    pub fn signal(&self, place: usize, signal: Signal) -> anyhow::Result<()> {
        self.nodes[place].signal(signal)
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self, place: usize) -> anyhow::Result<ExitStatus> {
        self.signal(place, Signal::KILL)?;
        self.wait_exit(place, STOP_MAX).await
    }

    /// SIGTERM, and waits for the node to drain and end.
    pub async fn terminate(&mut self, place: usize) -> anyhow::Result<ExitStatus> {
        self.signal(place, Signal::TERM)?;
        self.wait_exit(place, STOP_MAX).await
    }

    /// Stops the node as [`Self::terminate`] does; one that does not end in time, such as one that is stopped, is killed.
    pub async fn end(&mut self, place: usize) -> anyhow::Result<ExitStatus> {
        match self.terminate(place).await {
            Err(_) if self.nodes[place].pid().is_some() => {
                self.signal(place, Signal::KILL)?;
                self.wait_exit(place, STOP_MAX).await
            }
            ended => ended,
        }
    }

    /// Waits for the node's process to end.
    pub async fn wait_exit(
        &mut self,
        place: usize,
        timeout: Duration,
    ) -> anyhow::Result<ExitStatus> {
        self.nodes[place].wait_exit(timeout).await
    }

    /// Waits until some node ends by itself; answers with its place. Pending while none runs.
    pub async fn next_exit(&mut self) -> (usize, ExitStatus) {
        let exits = self.nodes.iter_mut().map(|node| Box::pin(node.exit()));
        let (status, place, _) = future::select_all(exits).await;
        (place, status)
    }

    /// SIGTERM to all nodes, and SIGKILL to those that do not end in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        let running: Vec<_> = (0..self.nodes.len())
            .filter(|&place| self.is_running(place))
            .collect();
        for &place in &running {
            self.signal(place, Signal::CONT)?;
            self.signal(place, Signal::TERM)?;
        }
        for place in running {
            if self.wait_exit(place, STOP_MAX).await.is_err() {
                self.kill(place).await?;
            }
        }
        Ok(())
    }

    /// How many nodes the cluster has, running or not.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_running(&self, place: usize) -> bool {
        self.nodes[place].pid().is_some()
    }

    pub fn name(&self, place: usize) -> &str {
        &self.nodes[place].name
    }

    pub fn addr(&self, place: usize) -> &str {
        &self.nodes[place].addr
    }

    pub fn addrs(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr.clone()).collect()
    }

    pub fn pid(&self, place: usize) -> Option<u32> {
        self.nodes[place].pid()
    }

    pub fn data_dir(&self, place: usize) -> PathBuf {
        self.options.dir.join(&self.nodes[place].name)
    }

    pub fn log_path(&self, place: usize) -> PathBuf {
        self.options
            .dir
            .join(format!("{}.log", self.nodes[place].name))
    }

    fn addr_file(&self, name: &str) -> PathBuf {
        self.options.dir.join(format!("{name}.addr"))
    }

    /// The addresses of the cluster that an earlier call left in a directory, in the order of its nodes.
    pub fn left_in(dir: &Path) -> anyhow::Result<Vec<String>> {
        let mut addrs = Vec::new();
        loop {
            let name = format!("n{}.addr", addrs.len() + 1);
            match files::read_if_present(&dir.join(name))? {
                Some(addr) => addrs.push(addr.trim().to_owned()),
                None => return Ok(addrs),
            }
        }
    }

    /// The files of `name`'s certificate, or `None` in a cluster without TLS.
    pub fn tls_files(&self, name: &str) -> Option<TlsFiles> {
        let at = |file: String| self.options.dir.join("certs").join(file);
        self.options.tls.then(|| TlsFiles {
            ca: at("ca.pem".to_owned()),
            cert: at(format!("{name}.pem")),
            key: at(format!("{name}-key.pem")),
            crl: None,
        })
    }

    /// The client's certificate.
    pub fn client_tls_files(&self) -> Option<TlsFiles> {
        self.tls_files(CLIENT_NAME)
    }

    /// How a client dials these nodes.
    pub fn stream_layer(&self) -> anyhow::Result<StreamLayer> {
        let security = match self.client_tls_files() {
            Some(files) => {
                Security::Mutual(Tls::load(&files).context("load the client's certificate")?)
            }
            None => Security::Insecure,
        };
        Ok(StreamLayer::new(Arc::new(TcpNetwork), security))
    }

    /// A client of all nodes.
    pub fn client(&self, timeout: Duration) -> anyhow::Result<Client> {
        self.client_of(self.addrs(), timeout)
    }

    /// A client that knows only `servers`.
    pub fn client_of(&self, servers: Vec<String>, timeout: Duration) -> anyhow::Result<Client> {
        let client = Client::builder().servers(servers).timeout(timeout);
        Ok(client.stream_layer(self.stream_layer()?).build()?)
    }

    fn log_tail(&self, place: usize) -> anyhow::Result<String> {
        log_tail(&self.log_path(place))
    }
}
