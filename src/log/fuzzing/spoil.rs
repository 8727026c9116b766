//! Files as an input has them: raw, or a good log's with changes, the checksums made right again.

use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::disk::crc32c;
use crate::disk::memory::MemoryDisk;
use crate::log::Index;
use crate::log::format::directory;
use crate::log::format::file_header::FILE_HEADER_BYTES;
use crate::log::format::files::Paths;
use crate::log::format::frame::{self, HEADER_BYTES, Kind};
use crate::log::format::record;
use crate::log::format::row::ROW_BYTES;
use crate::log::format::seal_file;

use super::{DIR, Input};

/// Files of one to three segments, as they come.
pub fn lay_files(disk: &MemoryDisk, input: &mut Input<'_>) {
    for _ in 0..12 {
        if input.is_empty() {
            break;
        }
        let what = input.u8();
        let path = path_of(what & 3, u64::from(what >> 2 & 15));
        let bytes = input.part();
        if let Ok(file) = disk.open_or_create(&path) {
            let _ = file.write_all_at(bytes, 0);
        }
        if what & 0x80 != 0 {
            disk.corrupt(&path, |bytes| mend(&path, bytes));
        }
    }
}

pub fn path_of(what: u8, base: u64) -> PathBuf {
    let Paths { store, index, seal } = Paths::new(Path::new(DIR), Index(base));
    match what {
        0 => store,
        1 => index,
        2 => seal,
        _ => Path::new(DIR).join("cut"),
    }
}

/// Changes a file behind the log's back.
pub fn spoil(disk: &MemoryDisk, input: &mut Input<'_>) {
    let names = disk.list(Path::new(DIR)).unwrap_or_default();
    let what = input.u8();
    let Some(name) = names.get(input.below(names.len())) else {
        return;
    };
    let path = Path::new(DIR).join(name);
    if what & 15 == 9 {
        let _ = disk.remove(&path);
        return;
    }
    if what & 15 == 10 {
        let _ = disk.rename(&path, &path_of(what >> 4 & 3, u64::from(input.u8() & 15)));
        return;
    }
    disk.corrupt(&path, |bytes| {
        change(what & 15, bytes, input);
        if what & 0x80 != 0 {
            mend(&path, bytes);
        }
    });
}

fn change(how: u8, bytes: &mut Vec<u8>, input: &mut Input<'_>) {
    let at = input.below(bytes.len());
    let end = |len: usize| (at + len).min(bytes.len());
    match how {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_slice(input.take(at % 256)),
        2 => {
            let end = end(usize::from(input.u8()));
            bytes[at..end].fill(0);
        }
        3 => {
            let end = end(usize::from(input.u8()));
            let copied = bytes[at..end].to_vec();
            let to = input.below(bytes.len());
            let room = copied.len().min(bytes.len() - to);
            bytes[to..to + room].copy_from_slice(&copied[..room]);
        }
        4 => {
            let (at, end) = (at & !3, end(4) & !3);
            let number = input.u32().to_le_bytes();
            if end == at + 4 {
                bytes[at..end].copy_from_slice(&number);
            }
        }
        5 => {
            let (at, end) = (at & !7, end(8) & !7);
            let number = (u64::MAX - u64::from(input.u16())).to_le_bytes();
            if end == at + 8 {
                bytes[at..end].copy_from_slice(&number);
            }
        }
        6 => {
            let end = end(usize::from(input.u8()));
            bytes.drain(at..end);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = input.u8();
            }
        }
    }
}

/// Makes the checksums of a file right again.
pub fn mend(path: &Path, bytes: &mut [u8]) {
    let crc = |parts: &[&[u8]]| {
        let all = parts
            .iter()
            .fold(0, |crc, part| crc32c::crc32c_append(crc, part));
        all.to_le_bytes()
    };
    let Some((head, rest)) = bytes.split_first_chunk_mut::<FILE_HEADER_BYTES>() else {
        return;
    };
    let sum = crc(&[&head[..12], &head[16..24]]);
    head[12..16].copy_from_slice(&sum);
    match path.extension().and_then(|suffix| suffix.to_str()) {
        Some("store") => mend_frames(rest),
        Some("index") => {
            for row in rest
                .chunks_exact_mut(ROW_BYTES)
                .take_while(|row| row.iter().any(|b| *b != 0))
            {
                let (numbers, check) = row.split_at_mut(ROW_BYTES - 4);
                check.copy_from_slice(&crc(&[&head[16..32], numbers]));
            }
        }
        Some("seal") => mend_seal(bytes),
        _ => mend_end(bytes),
    }
}

/// The checksum at the end of all.
fn mend_end(bytes: &mut [u8]) {
    if let Some((body, last)) = bytes.split_last_chunk_mut::<4>() {
        *last = crc32c::crc32c(body).to_le_bytes();
    }
}

fn mend_seal(bytes: &mut [u8]) {
    let Some((end, shape)) = seal_file::layout(bytes) else {
        return;
    };
    let (sum, listed) = bytes.split_at_mut(end.min(bytes.len()));
    mend_end(sum);
    directory::mend(listed, &shape);
}

fn mend_frames(mut rest: &mut [u8]) {
    while rest.len() >= HEADER_BYTES && rest[..HEADER_BYTES].iter().any(|byte| *byte != 0) {
        let length = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let whole = frame::frame_bytes(length);
        let (head, behind) = rest.split_at_mut(HEADER_BYTES);
        if let Some(payload) = behind.get_mut(..length) {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..4]), &head[8..24]);
            let crc = crc32c::crc32c_append(crc, &head[28..29]);
            let crc = if Kind::new(head[28]).is_some_and(Kind::has_batches) {
                record::mend(payload);
                record::framed_crc(crc, payload)
            } else {
                crc32c::crc32c_append(crc, payload)
            };
            head[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        let check = crc32c::crc32c(&rest[..29]).to_le_bytes();
        rest[29..32].copy_from_slice(&check[..3]);
        rest = rest.get_mut(whole..).unwrap_or_default();
    }
}
