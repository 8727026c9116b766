//! Disks that fill, fail and lose their power, under real processes.

mod failing;
mod full;
mod power_cut;
