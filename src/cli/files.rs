//! The files of the command line: inputs, certificates, child logs, and what `/proc` tells of a process.
//!
//! None of this is the log's data, so it does not pass the disk seam. Errors name the path and the act.

#![allow(
    clippy::disallowed_methods,
    reason = "a user's files and /proc are read and written outside the disk seam of the log"
)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::access::Rights;

/// Linux counts the CPU time in `/proc` in hundredths of a second on every architecture.
const TICKS_PER_SECOND: u64 = 100;
/// What `stat` counts blocks in, whatever the file system's own size is.
const BLOCK_BYTES: u64 = 512;

/// Opens FILE for reading; `-` is standard input.
pub(super) fn open_input(path: &Path) -> anyhow::Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    let file =
        File::open(path).with_context(|| format!("open {}; check the path", path.display()))?;
    if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
        bail!(
            "{} is a directory; give a file, or - for standard input",
            path.display()
        );
    }
    Ok(Box::new(file))
}

/// The length of a plain file, for a progress bar; `None` for a pipe.
pub(super) fn input_bytes(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then_some(metadata.len())
}

/// Makes a directory for everybody to read, and its parents; one that exists is left as it is.
pub(super) fn create_dir(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make the directory {}", path.display()))
}

/// Makes the directory and its parents, readable by the owner alone; one that exists is left as it is.
pub(super) fn create_private_dir(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make the directory {}", path.display()))
}

/// Writes a file that must not exist yet, with the given mode from its first moment.
pub(super) fn write_new(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} exists and is not overwritten; remove it first, or write elsewhere",
                path.display()
            )
        }
        outcome => outcome.with_context(|| format!("write {}", path.display())),
    }
}

/// Where a file is written before it takes its place: `n1.pem.new` for `n1.pem`.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Writes a file aside, with the given mode from its first moment. Durable on return, but for its name.
pub(super) fn write_aside(path: &Path, mode: u32, text: &str) -> anyhow::Result<()> {
    let aside = aside(path);
    // What an earlier try left may have another mode.
    remove(&aside)?;
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    if written.is_err() {
        // Half a file helps nobody, and the disk may be full of it.
        let _ = fs::remove_file(&aside);
    }
    written.with_context(|| format!("write {}", aside.display()))
}

/// Puts what was written aside in place of the file. Durable on return.
pub(super) fn put_in_place(path: &Path) -> anyhow::Result<()> {
    let renamed = fs::rename(aside(path), path);
    renamed.with_context(|| format!("put {} in its place", aside(path).display()))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let dir = dir.unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.with_context(|| format!("sync the directory {}", dir.display()))
}

/// The names of the files in a directory, sorted.
pub(super) fn list(dir: &Path) -> anyhow::Result<Vec<String>> {
    let listed = || format!("list {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(listed)? {
        let name = entry.with_context(listed)?.file_name();
        names.extend(name.into_string());
    }
    names.sort_unstable();
    Ok(names)
}

/// Who may do what with a file.
pub(super) fn rights(path: &Path) -> anyhow::Result<Rights> {
    let found = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    Ok(Rights::from(&found))
}

/// The given directory, or a temporary one that goes when the second value is dropped.
pub(super) fn scratch_dir(
    given: Option<PathBuf>,
    what: &str,
) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    match given {
        // Absolute, because the commands we print are run from anywhere.
        Some(dir) => Ok((
            std::path::absolute(&dir).context("find the directory")?,
            None,
        )),
        None => {
            let prefix = format!("ferrolog-{what}-");
            let dir = tempfile::Builder::new()
                .prefix(&prefix)
                .tempdir()
                .context("make a temporary directory")?;
            Ok((dir.path().to_owned(), Some(dir)))
        }
    }
}

/// Writes a small file of our own, in place of the one that is there.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it.
pub(super) fn remove_dir(path: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))
}

/// Whether this process was started to ignore a signal.
pub(super) fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

fn ignores(status: &str, signal: i32) -> bool {
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // The lowest bit stands for signal 1.
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The text of a file, or `None` if there is none.
pub(super) fn read_if_present(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// What tells whether a file was written since: which one it is, its length, and when it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// The stamp of a file, or `None` if it cannot be looked at.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp {
        inode: found.ino(),
        bytes: found.len(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Whether this process may make files in a directory.
pub(super) fn check_writable(dir: &Path) -> anyhow::Result<()> {
    let may = rustix::fs::access(
        dir,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
    );
    may.with_context(|| format!("write into {}", dir.display()))
}

pub(super) fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

pub(super) fn exists(path: &Path) -> bool {
    path.exists()
}

/// Opens a log file for a child process, at its end.
pub(super) fn append(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// What the files under `dir` take on disk, holes not counted.
pub(super) fn disk_bytes(dir: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            // A node may remove a file between the listing and this look.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            match metadata.is_dir() {
                true => dirs.push(entry.path()),
                false => total += metadata.blocks() * BLOCK_BYTES,
            }
        }
    }
    Ok(total)
}

/// Has the system forget what it keeps in memory of a file, so that the next read of it is one of the disk. What is not
/// synced, or is mapped, stays. A file that is gone is none to forget.
pub(super) fn forget_cached(path: &Path) -> anyhow::Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened.with_context(|| format!("open {}", path.display()))?,
    };
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
        .with_context(|| format!("forget what is kept of {}", path.display()))
}

/// The resident memory of a process, in bytes.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_resident(&text).with_context(|| format!("{path} has no VmRSS"))
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The bytes that a process has caused to be sent to storage.
pub(super) fn written_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/io");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_written(&text).with_context(|| format!("{path} has no write_bytes"))
}

fn parse_written(io: &str) -> Option<u64> {
    // Another line, `cancelled_write_bytes`, ends alike.
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// The CPU time that a process has used, in user and in kernel mode.
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_cpu_time(&text).with_context(|| format!("{path} has an unknown form"))
}

fn parse_cpu_time(stat: &str) -> Option<Duration> {
    // The name may hold spaces and parentheses, so the fields are counted from the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + kernel) * 1000 / TICKS_PER_SECOND,
    ))
}

/// The time of processors that the host of a virtual machine has given to others, of all of them together.
pub(super) fn stolen_time() -> anyhow::Result<Duration> {
    let path = "/proc/stat";
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    parse_stolen(&text).with_context(|| format!("{path} tells no stolen time"))
}

fn parse_stolen(stat: &str) -> Option<Duration> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: u64 = all.split_ascii_whitespace().nth(7)?.parse().ok()?;
    Some(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// The cores and the kernel, for the head of a measurement.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or_default();
    let model = model.trim_start_matches([':', ' ', '\t']).trim();
    format!(
        "{cores} cores{}{model}, Linux {}",
        if model.is_empty() { "" } else { " of " },
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        assert_eq!(
            parse_resident("Name:\tx\nVmRSS:\t    1234 kB\nVmData: 1 kB\n"),
            Some(1234 * 1024)
        );
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 5 1 1 1";
        assert_eq!(parse_cpu_time(stat), Some(Duration::from_secs(2)));
        assert!(resident_bytes(std::process::id()).unwrap() > 0);
        let io = "rchar: 7\ncancelled_write_bytes: 5\nwrite_bytes: 4096\n";
        assert_eq!(parse_written(io), Some(4096));
        written_bytes(std::process::id()).unwrap();
        cpu_time(std::process::id()).unwrap();
        let stat = "cpu  1 2 3 4 5 6 7 250 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(parse_stolen(stat), Some(Duration::from_millis(2500)));
        stolen_time().unwrap();
    }

    #[test]
    fn holes_take_no_disk() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        create_private_dir(&dir.path().join("a/b")).unwrap();
        write(&dir.path().join("a/b/full"), &"x".repeat(10_000)).unwrap();
        let bytes = disk_bytes(dir.path()).unwrap();
        assert!(bytes < 1 << 20, "{bytes}");
    }

    #[test]
    fn a_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_new(&path, 0o600, "one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(
            write_new(&path, 0o600, "two")
                .unwrap_err()
                .to_string()
                .contains("not overwritten")
        );
        assert_eq!(read_if_present(&path).unwrap().as_deref(), Some("one"));
        assert_eq!(read_if_present(&dir.path().join("none")).unwrap(), None);
    }
}
