//! What all verbs share: the way to a log, past the policy, the limits, what answers hold.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::log::LogId;
use crate::name::{self, Shown};
use crate::net::budget::Accounts;
use crate::net::mux::PeerInfo;
use crate::raft::{CreateLog, LogConfig};
use crate::reason::Reason;
use crate::spans::Trace;

use super::answers::Unread;
use super::answers::bulk::Bulk;
use super::answers::reading::Reading;
use super::audit::Audit;
use super::auth::{Action, Actions, On, Rights};
use super::intake::Called;
use super::{CommitLog, Counts, Drain, Facts, Limits, Policy, deadline, status};

/// The name of the log that is always there, which a call means that names none.
const DEFAULT_LOG: &str = "default";

/// What all verbs share. The log takes its seat once the node belongs to a cluster; nobody reaches it but by a
/// function here that looks at the policy.
#[derive(Debug)]
pub struct ApiContext<L> {
    seat: Arc<OnceLock<L>>,
    policy: Policy,
    pub limits: Limits,
    pub reading: Reading,
    pub unread: Unread,
    pub drain: Drain,
    pub counts: Arc<Counts>,
    /// What the node stands on.
    pub facts: Facts,
}

impl<L> ApiContext<L> {
    /// Long work is done on the blocking threads of `bulk`. Needs a tokio runtime.
    pub fn new(
        seat: Arc<OnceLock<L>>,
        policy: Policy,
        limits: Limits,
        drain: Drain,
        bulk: Handle,
    ) -> Self {
        Self {
            seat,
            policy,
            limits,
            reading: Reading::new(Bulk::new(bulk)),
            unread: Unread::watched(),
            drain,
            counts: Arc::default(),
            facts: Facts::default(),
        }
    }

    /// The same, and what its calls come to is counted there.
    pub fn counting(self, counts: Arc<Counts>) -> Self {
        Self { counts, ..self }
    }

    /// The same, and it tells these.
    pub fn knowing(self, facts: Facts) -> Self {
        Self { facts, ..self }
    }

    /// Refuses calls as long as the node belongs to no cluster.
    pub fn started(&self) -> Result<(), Status> {
        self.seated().map(drop)
    }

    fn seated(&self) -> Result<&L, Status> {
        self.seat.get().ok_or_else(status::starting)
    }

    /// What is told beside the changes.
    pub fn audit(&self) -> &Audit {
        self.policy.audit()
    }

    /// What the caller may do.
    pub fn rights<T>(&self, request: &Request<T>) -> Rights {
        let extensions = request.extensions();
        let verb = extensions.get::<Called>().map_or("", |called| called.0);
        let rights = self.policy.of(extensions.get::<PeerInfo>(), verb);
        match extensions.get::<Trace>() {
            Some(trace) => rights.traced(trace),
            None => rights,
        }
    }
}

impl<L: CommitLog> ApiContext<L> {
    /// The log of this name, for as long as the caller waits, if it may do one of these things to it.
    pub fn log_for<T, N: Into<Actions>>(
        &self,
        request: &Request<T>,
        name: &str,
        needed: N,
    ) -> impl Future<Output = Result<L, Status>> + Send + use<T, L, N> {
        let log = self.by_name(
            &self.rights(request),
            name,
            needed.into(),
            deadline::of(request),
        );
        let name = name.to_owned();
        async move { named(log?, &name).await }
    }

    /// The same for a message of a stream, which knows its caller's rights: the log of this name, if the caller
    /// may do one of these things to it; the default log without a name.
    ///
    /// The right is judged first, so that whoever has none does not hear whether there is such a log.
    pub async fn log_of(
        &self,
        rights: &Rights,
        name: &str,
        needed: impl Into<Actions> + Send,
        until: Option<Instant>,
    ) -> Result<L, Status> {
        named(self.by_name(rights, name, needed.into(), until)?, name).await
    }

    /// The log that has this name now, if the caller may do one of these things to it: this node asks the leader
    /// before it looks the name up, for an answer that holds all that was acknowledged.
    pub async fn current_log_for<T>(
        &self,
        request: &Request<T>,
        name: &str,
        needed: impl Into<Actions>,
    ) -> Result<L, Status> {
        named_now(self.catalogue_for(request, name, needed)?, name).await
    }

    /// What a call that named a log is told. A node that lags takes the name for that of a log which is gone, though
    /// another one has it since: then nothing was done, and the same call reaches that one, for this node asks the
    /// leader before it says so.
    pub async fn as_named<T>(&self, name: &str, outcome: Result<T, Status>) -> Result<T, Status> {
        let is_gone = |status: &Status| {
            matches!(
                Reason::of(status),
                Some(Reason::LogDeleted | Reason::NoSuchLog)
            )
        };
        match outcome {
            Err(status) if is_gone(&status) => {
                let log = self.seated()?;
                let current = log.read_barrier().await;
                current.map_err(|error| status::read(&error))?;
                Err(match log.named(name) {
                    Some(_) => status::log_made_anew(name),
                    None => status,
                })
            }
            outcome => outcome,
        }
    }

    /// For a reader of several logs, who may do this to some: to which, it asks its rights.
    pub fn several_for(
        &self,
        rights: &Rights,
        needed: impl Into<Actions>,
        until: Option<Instant>,
    ) -> Result<L, Status> {
        rights.check(needed, On::Some)?;
        Ok(self.seated()?.until(until))
    }

    /// The same, if the log has this id, where one is given.
    pub async fn log_seen(
        &self,
        rights: &Rights,
        (name, id): (&str, Option<u32>),
        needed: impl Into<Actions> + Send,
        until: Option<Instant>,
    ) -> Result<L, Status> {
        with_id(self.log_of(rights, name, needed, until).await?, name, id).await
    }

    /// The log of this name to append to, if the caller may, and if it has this id where one is given. If there is
    /// none, and the settings say so, it is made, once however many ask for it.
    pub async fn log_to(
        &self,
        rights: &Rights,
        (name, id): (&str, Option<u32>),
        until: Option<Instant>,
    ) -> Result<L, Status> {
        let found = self.log_of(rights, name, Action::Produce, until).await;
        if id.is_some() {
            // One that is made now would not have it.
            return with_id(found?, name, id).await;
        }
        let is_missing = |status: &Status| Reason::of(status) == Some(Reason::NoSuchLog);
        if !found.as_ref().is_err_and(is_missing) || !self.limits.create_logs_on_produce.get() {
            return found;
        }
        check_new_name(name)?;
        let create = CreateLog {
            name: name.to_owned(),
            config: LogConfig::default(),
            token: Bytes::new(),
            subject: rights.subject().to_owned(),
            now_ms: 0,
            logs_max: self.limits.logs_max.get(),
        };
        let log = self.seated()?.until(until).asked_by(rights.origin());
        let made = log.make(create).await;
        made.map_err(|error| status::execute(&error))
    }

    /// Whether a log of this name is made when this caller appends to it, as far as this node knows.
    pub fn makes_on_produce(&self, rights: &Rights, name: &str) -> bool {
        let is_missing = |log: &L| log.named(name).is_none();
        self.limits.create_logs_on_produce.get()
            && self.seated().is_ok_and(is_missing)
            && check_new_name(name).is_ok()
            && rights.may(Action::Produce, name)
    }

    /// The log's cluster, for a caller that may do one of these things to a log of this name, whether there is one
    /// or not.
    pub fn catalogue_for<T>(
        &self,
        request: &Request<T>,
        name: &str,
        needed: impl Into<Actions>,
    ) -> Result<L, Status> {
        self.by_name(
            &self.rights(request),
            name,
            needed.into(),
            deadline::of(request),
        )
    }

    fn by_name(
        &self,
        rights: &Rights,
        name: &str,
        needed: Actions,
        until: Option<Instant>,
    ) -> Result<L, Status> {
        let name = meant(name);
        self.on_log(rights, name, needed, On::Log(name), until)
    }

    /// A cursor's log, for a caller that may do one of these things to it or to the cursor of this name.
    pub async fn log_with_cursor<T: Sync>(
        &self,
        request: &Request<T>,
        (log, cursor): (&str, &str),
        needed: impl Into<Actions> + Send,
    ) -> Result<L, Status> {
        let known = self.with_cursor(request, (log, cursor), needed.into())?;
        named(known, log).await
    }

    /// The log that has this name now, asked of the leader before, for such a caller.
    pub async fn current_log_with_cursor<T: Sync>(
        &self,
        request: &Request<T>,
        (log, cursor): (&str, &str),
        needed: impl Into<Actions> + Send,
    ) -> Result<L, Status> {
        let known = self.with_cursor(request, (log, cursor), needed.into())?;
        named_now(known, log).await
    }

    fn with_cursor<T>(
        &self,
        request: &Request<T>,
        (log, cursor): (&str, &str),
        needed: Actions,
    ) -> Result<L, Status> {
        let name = meant(log);
        let on = On::Cursor {
            log: Some(name),
            name: cursor,
        };
        let until = deadline::of(request);
        self.on_log(&self.rights(request), name, needed, on, until)
    }

    fn on_log(
        &self,
        rights: &Rights,
        name: &str,
        needed: Actions,
        on: On<'_>,
        until: Option<Instant>,
    ) -> Result<L, Status> {
        rights.check(needed, on)?;
        if needed == Action::Produce.into() && name::is_of_system(name) {
            return Err(status::of_system(name));
        }
        Ok(self.seated()?.until(until).asked_by(rights.origin()))
    }

    /// What belongs to the cluster and to no log, for a caller that may do this to all there is.
    pub fn cluster_for<T>(
        &self,
        request: &Request<T>,
        needed: impl Into<Actions>,
    ) -> Result<L, Status> {
        self.beside(request, needed.into(), On::Cluster)
    }

    /// What the users of all logs share, for a caller that may do one of these things to some log.
    pub fn shared_for<T>(
        &self,
        request: &Request<T>,
        needed: impl Into<Actions>,
    ) -> Result<L, Status> {
        self.beside(request, needed.into(), On::Some)
    }

    fn beside<T>(&self, request: &Request<T>, needed: Actions, on: On<'_>) -> Result<L, Status> {
        let rights = self.rights(request);
        rights.check(needed, on)?;
        let log = self.seated()?.until(deadline::of(request));
        Ok(log.asked_by(rights.origin()))
    }
}

/// The log that a call means which names it so.
fn meant(name: &str) -> &str {
    if name.is_empty() { DEFAULT_LOG } else { name }
}

/// The log that has this name now: the leader is asked before it is looked up.
async fn named_now<L: CommitLog>(log: L, name: &str) -> Result<L, Status> {
    let current = log.read_barrier().await;
    current.map_err(|error| status::read(&error))?;
    log.named(name).ok_or_else(|| status::no_such_log(name))
}

/// The log of this name; the default one without a name. A node that lags must not say that there is none: it
/// asks the leader first.
async fn named<L: CommitLog>(log: L, name: &str) -> Result<L, Status> {
    match log.named(name) {
        Some(known) => Ok(known),
        None => named_now(log, name).await,
    }
}

/// A log that was found under a name, if it has this id, where one is given. A node that lags may know another log by
/// the name: it asks the leader first.
pub async fn with_id<L: CommitLog>(log: L, name: &str, id: Option<u32>) -> Result<L, Status> {
    let meant = match id.map(LogId) {
        Some(meant) if meant != log.id() => meant,
        _ => return Ok(log),
    };
    let current = log.read_barrier().await;
    current.map_err(|error| status::read(&error))?;
    let log = log.named(name).ok_or_else(|| status::no_such_log(name))?;
    let known = log.id();
    if known != meant {
        return Err(status::another_log(name, meant, known));
    }
    Ok(log)
}

/// Refuses a name that no log may be made under.
pub fn check_new_name(name: &str) -> Result<(), Status> {
    let fits = name::check(name).map_err(|bad| format!("a log: {bad}, not {}", Shown(name)));
    let fits = fits.and_then(|()| {
        let what = "a log's name has no space at either end, and does not begin with _";
        let is_plain = name.trim() == name && !name::is_of_system(name);
        is_plain.then_some(()).ok_or_else(|| what.to_owned())
    });
    fits.map_err(status::invalid)
}

/// What the connection that a call came by may make the node hold.
pub fn accounts<T>(request: &Request<T>) -> Option<Accounts> {
    let peer = request.extensions().get::<PeerInfo>();
    peer.map(|peer| peer.accounts.clone())
}
