//! A filesystem in a file, on a loop device, whose power can be cut: what was not synced is gone for good.
//!
//! The ioctl and the filter that fakes syncs stand in `tests/processes/disks/power_cut.py`. Dropping a disk takes it off the
//! machine; the processes that use it must have been killed by then.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tokio::process;

use super::{BINARY, until};

/// Room for a segment, for the one that is made ahead, and for what a node keeps in reserve, 288 MiB: on half of it a
/// load that lasted long enough to have the second segment made found the disk full. Sparse: it takes what is written.
pub const DISK_BYTES: u64 = 1 << 30;
/// A killed process lets go of its files within some milliseconds, which is a few of these attempts.
const UNMOUNT_ATTEMPTS: usize = 1_000;
const HELPER: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/processes/disks/power_cut.py"
);
/// The bit of the capability to mount.
const CAP_SYS_ADMIN: u64 = 21;

static PYTHON: OnceLock<PathBuf> = OnceLock::new();

#[derive(Debug, Clone, Copy)]
pub enum Filesystem {
    Ext4,
    Xfs,
}

/// What a node's syncs do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    Real,
    /// They succeed and do nothing.
    Faked,
}

impl Filesystem {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Nothing is kept back for root, or the nodes of root would never find it full.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-m", "0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        }
    }
}

/// Whether disks of their own, and power cuts, are possible here; says so if they are not. In CI a tool that
/// could be installed must be there.
pub fn can_cut_power(filesystem: Filesystem) -> bool {
    let Some(lack) = lack_of_machine(filesystem).or_else(|| lack_of_tool(filesystem)) else {
        return true;
    };
    println!(
        "SKIPPED: disks of their own need root with loop devices and tools, and here is {lack}: {}",
        filesystem.name()
    );
    false
}

/// What no package would bring.
fn lack_of_machine(filesystem: Filesystem) -> Option<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let rights = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    let mounts = rights.is_some_and(|bits| bits & (1 << CAP_SYS_ADMIN) != 0);
    if !rustix::process::geteuid().is_root() || !mounts {
        return Some("no right to mount".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("no /dev/loop-control".to_owned());
    }
    // A kernel that has it as a module lists it once it is loaded; without modules this fails.
    let _ = output(Command::new("modprobe").args(["-q", filesystem.name()]));
    let known = read("/proc/filesystems");
    let known = known.split_whitespace().any(|n| n == filesystem.name());
    (!known).then(|| "a kernel without the filesystem".to_owned())
}

/// What `.ci/run` installs.
fn lack_of_tool(filesystem: Filesystem) -> Option<String> {
    let missing = |tool: &&str| output(Command::new(tool).arg("-V")).is_err();
    let tools = [filesystem.mkfs().0, "mount", "umount", "losetup"];
    let first = tools.iter().find(|tool| missing(tool)).copied();
    let lack = first.or_else(|| python().err())?;
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{lack} is missing, and in CI it must be there: see .ci/run"
    );
    Some(format!("no {lack}"))
}

/// The interpreter itself: `python3` can be a script that takes longer to find it than a cut does.
fn python() -> Result<&'static Path, &'static str> {
    if let Some(python) = PYTHON.get() {
        return Ok(python);
    }
    let ask = ["-c", "import sys; print(sys.executable)"];
    let path = output(Command::new("python3").args(ask)).map_err(|_| "python3")?;
    Ok(PYTHON.get_or_init(|| PathBuf::from(path.trim())))
}

/// Writes a program that becomes `ferrolog` with faked syncs.
pub fn write_liar(path: &Path) {
    let python = python().expect("python3").display();
    let script = format!("#!/bin/sh\nexec '{python}' -I -S '{HELPER}' lie '{BINARY}' \"$@\"\n");
    fs::write(path, script).expect("write the launcher");
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("its mode");
}

/// A mounted disk.
#[derive(Debug)]
pub struct LoopDisk {
    device: String,
    mount: PathBuf,
}

impl LoopDisk {
    /// Makes the image and the filesystem in it, and mounts it.
    pub async fn create(filesystem: Filesystem, bytes: u64, image: &Path, mount: PathBuf) -> Self {
        let file = File::create_new(image).expect("an image");
        file.set_len(bytes).expect("its length");
        fs::create_dir(&mount).expect("a place to mount");
        let (mkfs, flags) = filesystem.mkfs();
        run(Command::new(mkfs).args(flags).arg(image)).await;
        let device = run(Command::new("losetup")
            .args(["--find", "--show"])
            .arg(image))
        .await;
        let device = device.trim().to_owned();
        // Made first, so that a mount that fails leaves no device behind.
        let disk = Self { device, mount };
        disk.mount().await;
        disk
    }

    /// Cuts the power of these disks and freezes the processes on them, all at the same moment. The processes
    /// are to be killed next.
    pub async fn cut_power(disks: &[(u32, &Self)]) {
        let mut cut = Command::new(python().expect("python3"));
        cut.args(["-I", "-S", HELPER, "cut"]);
        for (pid, disk) in disks {
            cut.arg(format!("{pid}:{}", disk.mount.display()));
        }
        run(&mut cut).await;
    }

    /// From now on the disk refuses every write with EIO, under the process on it, which runs on. What was not
    /// synced is gone, as after a power cut; [`LoopDisk::power_on`] brings it back.
    pub async fn fail(&self, pid: u32) {
        let mut fail = Command::new(python().expect("python3"));
        fail.args(["-I", "-S", HELPER, "fail"])
            .arg(format!("{pid}:{}", self.mount.display()));
        run(&mut fail).await;
    }

    /// The bytes that can still be written.
    pub fn available(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount).expect("a mounted disk");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes the room of this disk but for `left` bytes, with a file that is none of the node's.
    pub fn take_room(&self, left: u64) {
        let file = File::create(self.ballast()).expect("a ballast");
        let len = self.available().saturating_sub(left);
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, len).expect("its room");
    }

    /// Gives it back.
    pub fn give_room_back(&self) {
        fs::remove_file(self.ballast()).expect("a ballast");
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Mounts it anew after a cut: the filesystem recovers from its journal.
    pub async fn power_on(&self) {
        until("the disk is unmounted", async || {
            let mut unmount = Command::new("umount");
            output_of(unmount.arg(&self.mount)).await.ok()
        })
        .await;
        self.mount().await;
    }

    /// Writes everything down, whatever the processes on it asked for.
    pub async fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(&self.mount)).await;
    }

    async fn mount(&self) {
        run(Command::new("mount").arg(&self.device).arg(&self.mount)).await;
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let unmounted = || output(Command::new("umount").arg(&self.mount)).is_ok();
        if !(0..UNMOUNT_ATTEMPTS).any(|_| unmounted()) {
            // The kernel finishes it once the last file is closed.
            let _ = output(Command::new("umount").arg("-l").arg(&self.mount));
        }
        if let Err(error) = output(Command::new("losetup").arg("-d").arg(&self.device)) {
            eprintln!("{} stays: {error}", self.device);
        }
    }
}

/// What a command prints; an error if it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let done = command.stdin(Stdio::null()).output();
    judge(command, done)
}

/// The same, while others go on: a load must not pause for the cut that is to hit it.
async fn output_of(command: &mut Command) -> Result<String, String> {
    command.stdin(Stdio::null());
    let mut own = process::Command::new(command.get_program());
    let done = own.args(command.get_args()).output().await;
    judge(command, done)
}

async fn run(command: &mut Command) -> String {
    let done = output_of(command).await;
    done.unwrap_or_else(|error| panic!("{error}"))
}

fn judge(command: &Command, done: std::io::Result<std::process::Output>) -> Result<String, String> {
    let done = done.map_err(|error| format!("{command:?}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(format!("{command:?}: {}", text(&done.stderr).trim())),
    }
}
