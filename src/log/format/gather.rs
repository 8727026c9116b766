//! Frames side by side, on their way to a store.
//!
//! Small payloads are copied behind their headers, so that there are few writes. Large ones stay
//! where they are: a copy would cost more than a write of their own does.

use bytes::Bytes;

use super::frame::{self, Entry};

/// Payloads of at least so many bytes are not copied. Tests see both ways with short ones.
const SHARED_BYTES_MIN: usize = if cfg!(test) { 64 } else { 64 << 10 };

/// The bytes of frames, in order.
#[derive(Debug, Default)]
pub struct Gathered {
    copied: Vec<u8>,
    /// A payload that is not copied, and how many of the copied bytes stand before it.
    shared: Vec<(usize, Bytes)>,
    shared_bytes: usize,
}

impl Gathered {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.copied.len() + self.shared_bytes
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.copied.is_empty()
    }

    /// Adds an entry's frame; see [`frame::encode`].
    pub fn push(&mut self, entry: &Entry, crc: u32, distance: u32) {
        let payload = &entry.payload;
        if payload.len() < SHARED_BYTES_MIN {
            return frame::encode(entry, crc, distance, &mut self.copied);
        }
        frame::encode_header(entry, crc, distance, &mut self.copied);
        self.shared.push((self.copied.len(), payload.clone()));
        self.shared_bytes += payload.len();
        let padding = frame::padding(payload.len());
        self.copied.resize(self.copied.len() + padding, 0);
    }

    /// The bytes as they lie in memory.
    pub fn parts(&self) -> Vec<&[u8]> {
        let mut parts = Vec::with_capacity(2 * self.shared.len() + 1);
        let mut at = 0;
        for (copied, payload) in &self.shared {
            parts.push(&self.copied[at..*copied]);
            parts.push(payload.as_ref());
            at = *copied;
        }
        parts.push(&self.copied[at..]);
        parts
    }

    /// Forgets the frames, and gives back memory over `keep` bytes.
    pub fn clear(&mut self, keep: usize) {
        self.copied.clear();
        self.copied.shrink_to(keep);
        self.shared.clear();
        self.shared_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk, OsDisk};
    use crate::log::format::frame::Kind;
    use crate::log::{Index, Term};

    #[test]
    fn parts_make_up_the_frames() {
        let mut gathered = Gathered::default();
        let mut expected = Vec::new();
        for index in 0..1500 {
            let long = SHARED_BYTES_MIN + index % 9;
            let length = [0, SHARED_BYTES_MIN - 1, long, long][index % 4];
            let entry = Entry {
                term: Term(2),
                index: Index(index as u64),
                kind: Kind::Records,
                payload: vec![index as u8; length].into(),
            };
            let crc = frame::entry_crc(&entry);
            gathered.push(&entry, crc, 8);
            frame::encode(&entry, crc, 8, &mut expected);
        }
        assert_eq!(gathered.len(), expected.len());
        let parts = gathered.parts();
        assert_eq!(parts.concat(), expected);

        let dir = tempfile::tempdir().unwrap();
        let file = OsDisk.create(&dir.path().join("parts")).unwrap();
        file.write_parts_at(&gathered.parts(), 5).unwrap();
        let mut written = vec![1; expected.len() + 5];
        file.read_exact_at(&mut written, 0).unwrap();
        assert_eq!(file.len().unwrap(), written.len() as u64);
        assert_eq!(written[5..], expected);

        gathered.clear(0);
        assert!(gathered.is_empty());
        assert_eq!(gathered.len(), 0);
        file.write_parts_at(&gathered.parts(), 0).unwrap();
    }
}
