//! Whether what was written to standard output was taken: what is still in a pipe is lost with its reader.

use std::io::{self, ErrorKind};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat, major, minor};
use rustix::io::ioctl_fionread;

/// The system does not tell a writer that its pipe is empty, so the writer looks: soon at first, then less often.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_MAX: Duration = Duration::from_millis(50);
/// The device numbers of `/dev/null`.
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Waits until the reader of a pipe has taken all that was written to it. An error if it is gone before that.
pub(super) async fn taken(out: impl AsFd) -> io::Result<()> {
    let out = out.as_fd();
    let is_pipe = FileType::from_raw_mode(fstat(out)?.st_mode) == FileType::Fifo;
    let mut look = LOOK_FIRST;
    loop {
        let mut watched = [PollFd::new(&out, PollFlags::empty())];
        poll(&mut watched, Some(&Timespec::default()))?;
        let gone = PollFlags::ERR | PollFlags::NVAL;
        if watched[0].revents().intersects(gone) {
            return Err(ErrorKind::BrokenPipe.into());
        }
        if !is_pipe || ioctl_fionread(out)? == 0 {
            return Ok(());
        }
        tokio::time::sleep(look).await;
        look = (look * 2).min(LOOK_MAX);
    }
}

/// Whether the program was started without an output. The runtime then opens the null device in its place, to
/// read and to write; who writes there of his own will has it opened to be written.
pub(super) fn was_closed(out: impl AsFd) -> io::Result<bool> {
    let stat = fstat(&out)?;
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let device = (major(stat.st_rdev), minor(stat.st_rdev));
    let mode = fcntl_getfl(&out)? & OFlags::ACCMODE;
    Ok(is_device && device == NULL_DEVICE && mode == OFlags::RDWR)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_in_a_pipe_is_not_taken() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let out = writer.try_clone().unwrap();
        taken(&out).await.unwrap();
        writer.write_all(b"abc").unwrap();
        let mut waits = Box::pin(taken(&out));
        for (part, is_taken) in [(2, false), (1, true)] {
            assert!(waits.as_mut().now_or_never().is_none());
            reader.read_exact(&mut [0; 3][..part]).unwrap();
            tokio::time::sleep(LOOK_MAX * 2).await;
            let looked = waits.as_mut().now_or_never();
            assert_eq!(looked.is_some(), is_taken);
        }
        writer.write_all(b"abc").unwrap();
        drop(reader);
        let gone = taken(&out).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::BrokenPipe);
    }

    #[test]
    fn only_an_output_that_nobody_gave_was_closed() {
        #[allow(clippy::disallowed_methods, reason = "a device of the system")]
        let null = |read: bool| {
            let mut options = std::fs::File::options();
            let options = options.read(read).write(true);
            options.open("/dev/null").unwrap()
        };
        assert!(was_closed(null(true)).unwrap());
        assert!(!was_closed(null(false)).unwrap());
        assert!(!was_closed(io::pipe().unwrap().1).unwrap());
        assert!(!was_closed(tempfile::tempfile().unwrap()).unwrap());
    }
}
