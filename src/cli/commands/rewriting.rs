//! How far rewriting and compaction are, as a node tells it.

use serde_json::{Value, json};

use crate::cli::output::{counted, size};
use crate::client::Admin;
use crate::proto::v1::RewritingProgress;

/// How far the leader is with compaction; `None` if there is none, or it does not tell this caller.
pub(super) async fn of_leader(admin: &Admin) -> Option<RewritingProgress> {
    let seen = admin.status(None).await.ok()?;
    if seen.leads {
        return seen.rewriting;
    }
    let leader = seen.nodes.iter().find(|node| node.is_leader)?;
    admin.status(Some(&leader.addr)).await.ok()?.rewriting
}

/// For people.
pub(super) fn text(progress: &RewritingProgress) -> String {
    let looks = match (progress.looked_percent, progress.asked) {
        (Some(percent), _) => format!("looks for superseded records, {percent} %"),
        (None, true) => "is to look for superseded records, as was asked".to_owned(),
        (None, false) => "looks for nothing".to_owned(),
    };
    format!(
        "the leader {looks}; of all logs {} ({}) wait to go; {} not done",
        counted(
            progress.superseded_records,
            "superseded record",
            "superseded records"
        ),
        size(progress.superseded_bytes),
        counted(progress.due.into(), "rewriting is", "rewritings are"),
    )
}

/// For programs.
pub(super) fn json(progress: &RewritingProgress) -> Value {
    json!({
        "due": progress.due,
        "asked": progress.asked,
        "looked_percent": progress.looked_percent,
        "superseded_records": progress.superseded_records,
        "superseded_bytes": progress.superseded_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_and_programs_are_told_what_is_left() {
        let progress = RewritingProgress {
            due: 1,
            looked_percent: Some(40),
            superseded_records: 2000,
            superseded_bytes: 3 << 20,
            asked: false,
        };
        assert_eq!(
            text(&progress),
            "the leader looks for superseded records, 40 %; of all logs 2,000 superseded records (3MiB) wait to go; \
             1 rewriting is not done"
        );
        assert_eq!(json(&progress)["looked_percent"], 40);
        let asked = RewritingProgress {
            asked: true,
            ..RewritingProgress::default()
        };
        assert!(
            text(&asked).starts_with("the leader is to look for superseded records, as was asked;")
        );
        assert_eq!(json(&asked)["asked"], true);
    }
}
