//! Room on disks: what happens when there is none, and how it comes back.

mod compaction;
mod disk_room;
