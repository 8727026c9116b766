//! What the nodes tell once all is well again, held against what the clients were told: of each log, and of the order
//! of them all.

use std::time::Duration;

use ferrolog::client::{
    Client, ClientError, Consistency, ConsumeOptions, ConsumedRecord, LogInfo, Selection, Start,
};
use ferrolog::log::SegmentInfo;
use tokio::time::timeout;

use super::clients::{Found, Logs, TABLES, read_table};
use super::harness::checker::{Entry, NodeLog, hash};
use super::network::SimNetwork;
use super::nodes::Nodes;
use super::run::WELL_AGAIN;
use super::{events, judge, judge_order};

/// What one node tells of all logs.
pub struct NodeOrder {
    pub node: String,
    /// All records, as they were committed.
    pub found: Vec<Found>,
    /// The logs that there are.
    pub logs: Vec<LogInfo>,
}

/// All that is wrong.
pub async fn of(logs: &Logs, nodes: &Nodes, network: &SimNetwork) -> Vec<String> {
    let mut wrong = Vec::new();
    let client = network.client("c0", &nodes.addrs(), Duration::from_secs(60));
    let wanted = || nodes.all.iter().filter(|node| node.is_wanted);
    let mut places = Vec::new();
    for log in logs.lasting.iter() {
        let (next, is_retained) = {
            let record = log.record.lock();
            (record.next, record.is_retained)
        };
        let client = client.log(&*log.name);
        let mut told = Vec::new();
        for node in wanted() {
            let name = node.name();
            let read = read_all(&client, &name, &node.addr, next, is_retained);
            match timeout(WELL_AGAIN, read).await {
                Ok(Ok(log)) => told.push(log),
                Ok(Err(error)) => wrong.push(format!("{} of {name}: {error}", log.name)),
                Err(_) => wrong.push(format!("{name} does not tell {}", log.name)),
            }
        }
        let (found, places_of) = judge::judge(&log.record, told);
        wrong.extend(
            found
                .into_iter()
                .map(|what| format!("{}: {what}", log.name)),
        );
        places.push(places_of);
    }
    let mut orders = Vec::new();
    for node in wanted() {
        let one = network.client(
            "c0",
            std::slice::from_ref(&node.addr),
            Duration::from_secs(60),
        );
        match timeout(WELL_AGAIN, read_order(&one, node.name())).await {
            Ok(Ok(order)) => orders.push(order),
            Ok(Err(error)) => wrong.push(format!("the order of {}: {error}", node.name())),
            Err(_) => wrong.push(format!("{} does not tell the order", node.name())),
        }
    }
    wrong.append(&mut judge_order::judge(logs, &orders, &places));
    wrong.append(&mut tables(logs, nodes, &client).await);
    wrong.append(&mut segments(nodes));
    wrong
}

/// What is wrong with the logs that are compacted.
async fn tables(logs: &Logs, nodes: &Nodes, client: &Client) -> Vec<String> {
    let mut wrong = Vec::new();
    let known: Vec<_> = logs
        .tables()
        .iter()
        .map(|table| (table.name.clone(), table.next()))
        .collect();
    for (number, (name, next)) in known.into_iter().enumerate() {
        let (mut told, client) = (Vec::new(), client.log(&*name));
        for node in nodes.all.iter().filter(|node| node.is_wanted) {
            let read = read_table(&client, &node.addr, next);
            match timeout(WELL_AGAIN, read).await {
                Ok(Ok(records)) => told.push((node.name(), records)),
                Ok(Err(error)) => wrong.push(format!("{name} of {}: {error}", node.name())),
                Err(_) => wrong.push(format!("{} does not tell {name}", node.name())),
            }
        }
        wrong.extend(logs.tables()[number].judge(&told));
    }
    wrong
}

/// A segment ends where the log says so on every node that holds the entries around; anywhere else a node says that it
/// ended by itself.
fn segments(nodes: &Nodes) -> Vec<String> {
    let running = nodes.all.iter().filter(|node| node.is_wanted);
    let logs = running.filter_map(|node| Some((node.name(), node.agent()?.log().log().segments())));
    let logs: Vec<_> = logs.collect();
    let mut wrong = Vec::new();
    for (name, segments) in &logs {
        for pair in segments.windows(2) {
            let [segment, next] = pair else { continue };
            if segment.name.rewritten.is_some() {
                events::sometimes("segments were rewritten");
            }
            if !segment.rolled {
                events::sometimes("a node ended a segment by itself");
                continue;
            }
            events::sometimes("the log ended a segment");
            for (other, theirs) in &logs {
                // One that was rewritten stands for several.
                let around = |held: &SegmentInfo| {
                    let is_inside = held.base < next.base && next.base < held.next_index;
                    is_inside && held.name.rewritten.is_none()
                };
                if let Some(held) = theirs.iter().find(|held| around(held)) {
                    wrong.push(format!(
                        "the log ends a segment of {name} before {}, and {other} has one of {}..{}",
                        next.base, held.base, held.next_index
                    ));
                }
                let is_it = |theirs: &&SegmentInfo| theirs.next_index == next.base;
                if let Some(held) = theirs.iter().find(is_it).filter(|held| !held.rolled) {
                    wrong.push(format!(
                        "{other} says that it ended the segment before {} by itself, and {name} not",
                        held.next_index
                    ));
                }
            }
        }
    }
    wrong
}

fn entry(record: &ConsumedRecord) -> Entry {
    Entry {
        offset: record.offset,
        hash: hash(&record.record.value),
    }
}

/// A log as one node tells it. Retention goes on by itself: a read that it overtakes begins anew, where the log does
/// by then.
async fn read_all(
    client: &Client,
    name: &str,
    addr: &str,
    next: u64,
    is_retained: bool,
) -> Result<NodeLog, ClientError> {
    let options = ConsumeOptions {
        from: Start::Earliest,
        consistency: Consistency::AtLeast(next),
        server: Some(addr.to_owned()),
        ..ConsumeOptions::default()
    };
    'anew: loop {
        let mut consumer = client.consume(options.clone())?;
        let mut entries = Vec::new();
        while let Some(record) = consumer.next().await {
            match record {
                Err(ClientError::Trimmed { .. }) if is_retained => continue 'anew,
                record => entries.push(entry(&record?)),
            }
        }
        return Ok(NodeLog {
            node: name.to_owned(),
            first: entries.first().map_or(next, |entry| entry.offset),
            entries,
        });
    }
}

/// What the one node that this client speaks to tells of all logs.
async fn read_order(client: &Client, node: String) -> Result<NodeOrder, ClientError> {
    let options = ConsumeOptions {
        selection: Some(Selection::Prefix(String::new())),
        consistency: Consistency::Strong,
        ..ConsumeOptions::default()
    };
    let mut consumer = client.consume(options)?;
    let mut found = Vec::new();
    while let Some(record) = consumer.next().await {
        let record = record?;
        // They have rules of their own.
        if record.log.starts_with(TABLES) {
            continue;
        }
        let Entry { offset, hash } = entry(&record);
        found.push(Found {
            position: record.position.unwrap_or(u64::MAX),
            log: record.log,
            offset,
            hash,
        });
    }
    Ok(NodeOrder {
        node,
        found,
        logs: client.admin().list_logs("").await?,
    })
}
