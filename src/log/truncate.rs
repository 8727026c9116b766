//! Taking entries off the log's end, and starting an empty log elsewhere.

use super::format::files;
use super::open::cut;
use super::write::io::Request;
use super::{Done, Error, Index, Log, Term};

impl Log {
    /// Cuts the entries after `keep`, all of them if it is `None`. `done` comes when that is
    /// durable. A published entry must stay (I5).
    pub fn truncate_after(&self, keep: Option<Index>, done: Done) -> Result<(), Error> {
        let from = keep.map_or(Index(0), |keep| Index(keep.0 + 1));
        let mut state = self.0.state.write();
        assert!(
            from >= state.next_publish,
            "I5: a committed entry is never cut"
        );
        if from >= state.next_index() {
            drop(state);
            self.0.queue.push(Request::Run(Box::new(|| Ok(())), done));
            return Ok(());
        }
        state.rolled = state.rolled_at(from);
        let mut gone = Vec::new();
        while let Some(segment) = state.segments.pop_back_if(|segment| segment.base() >= from) {
            gone.push(segment.base());
        }
        gone.reverse();
        let shortened = state.segments.back_mut().and_then(|segment| {
            let end = segment.forget_from(from);
            // A segment that takes no more entries ends before the cut, and needs no room behind its end.
            let room = segment.room(&self.0.config);
            (segment.takes_more()).then(|| (segment.store.clone(), end, room))
        });
        state.forget_tail(from);
        state.last_term = match keep {
            Some(keep) => state.term_of(keep).unwrap_or(Term(0)),
            None => Term(0),
        };
        let (disk, dir) = (self.0.disk.clone(), self.0.dir.clone());
        let job = move || {
            let place = shortened
                .as_ref()
                .map_or((from, 0), |(store, end, _)| (store.base(), *end));
            cut::announce(&*disk, &dir, place)?;
            files::remove_all(&*disk, &dir, gone.iter())?;
            if let Some((store, end, room)) = &shortened {
                store.cut(*end, Some(*room))?;
                store.sync()?;
            }
            cut::finish(&*disk, &dir)
        };
        self.0.queue.push_cut(from, Box::new(job), done);
        Ok(())
    }

    /// Drops every entry; the next one gets the index `next`. Only a log that holds no record may
    /// be reset: records are dropped by retention alone.
    pub fn reset(&self, next: Index, done: Done) {
        let mut state = self.0.state.write();
        let records = (state.first_position, state.next_position);
        assert_eq!(records.0, records.1, "a log with records is never reset");
        let segments = state.segments.drain(..);
        let gone: Vec<_> = segments.map(|segment| segment.base()).collect();
        state.tail.clear();
        state.tail_bytes = 0;
        state.floor = next;
        state.next_publish = state.next_publish.max(next);
        let (disk, dir) = (self.0.disk.clone(), self.0.dir.clone());
        let job = move || {
            files::remove_all(&*disk, &dir, gone.iter())?;
            // The job is done again if a descriptor is missing: the names may be gone by then, and not durably.
            disk.sync_dir(&dir).map_err(Error::io("sync", &dir))
        };
        self.0.queue.push_cut(next, Box::new(job), done);
    }
}
