use std::fmt::Write as _;

use harness::Ledger;
use serde::Serialize;

use super::photos::Seen;

/// What the demo saw, and what must hold of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) photos: Vec<Seen>,
    pub(super) detector: bool,
    /// The refused request: its rule, and what would be allowed.
    pub(super) rule: String,
    pub(super) allowed: String,
    /// Replies that the clients counted.
    pub(super) replies: u64,
    /// Times that the broker was killed while requests went on.
    pub(super) broker_kills: u64,
    /// Requests answered while there was no broker.
    pub(super) replies_without_broker: u64,
    pub(super) hub: Ledger,
    /// Records in the outbox that the hub has not acknowledged, at the end.
    pub(super) outbox_pending: u64,
    pub(super) reconnects: u64,
}

impl Report {
    /// What does not hold, in words; empty when all is well.
    pub(super) fn broken(&self) -> Vec<String> {
        let hub = &self.hub;
        let coffee_is_espresso = |seen: &&Seen| {
            seen.photo == "coffee.png" && seen.found.first().is_some_and(|(label, _)| label == "espresso")
        };
        let conditions = [
            (
                self.photos.iter().filter(coffee_is_espresso).count() == 2,
                "the coffee is an espresso to both classifiers",
            ),
            (self.photos.iter().all(|seen| !seen.found.is_empty()), "something is found on every photo"),
            (
                self.photos.iter().all(|seen| !seen.provider.is_empty() && !seen.device.is_empty()),
                "what ran is known",
            ),
            (self.rule == super::road::DENY_RULE, "the refusal names its rule"),
            (self.broker_kills >= 1 && self.replies_without_broker > 0, "the broker was away for a while"),
            (hub.missing == 0 && hub.upto_seq.len() == 1, "the records have no gap"),
            (hub.requests == self.replies, "the hub counts the replies that the clients counted"),
            (self.outbox_pending == 0, "the outbox is empty"),
        ];
        let broken = conditions.into_iter().filter(|(holds, _)| !holds);
        broken.map(|(_, what)| format!("{what} [hub {}, clients {}]", hub.requests, self.replies)).collect()
    }

    pub(super) fn table(&self) -> String {
        let mut rows =
            vec![["model", "photo", "ran on", "queue", "batch", "compute", "found"].map(str::to_owned)];
        for seen in &self.photos {
            let found: Vec<String> =
                seen.found.iter().map(|(label, score)| format!("{label} {score:.2}")).collect();
            rows.push([
                seen.model.clone(),
                seen.photo.clone(),
                format!("{} ({})", seen.provider, seen.device),
                ms(seen.queue_us),
                ms(seen.batch_us),
                ms(seen.compute_us),
                found.join(", "),
            ]);
        }
        if !self.detector {
            rows.push(["nanodet-coco", "", "skipped: no npm", "", "", "", ""].map(str::to_owned));
        }
        let mut text = align(&rows);
        let hub = &self.hub;
        let upto = hub.upto_seq.values().sum::<u64>();
        // Writing into a String cannot fail.
        let mut line = |name: &str, what: String| writeln!(text, "{name:10} {what}").unwrap_or_default();
        line("refused", format!("by rule '{}'; allowed: {}", self.rule, self.allowed));
        line(
            "broker",
            format!(
                "killed {} time(s), {} replies meanwhile, {} reconnections",
                self.broker_kills, self.replies_without_broker, self.reconnects
            ),
        );
        let gap =
            if hub.missing == 0 { "without a gap".to_owned() } else { format!("{} MISSING", hub.missing) };
        line(
            "records",
            format!(
                "{} at the hub, 1 to {upto} {gap}, {} sent twice, {} still in the outbox",
                hub.records, hub.duplicates, self.outbox_pending
            ),
        );
        line(
            "counted",
            format!("{} requests by the hub, {} replies by the clients", hub.requests, self.replies),
        );
        text
    }
}

fn ms(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
}

fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width(column) + 2 - cell.chars().count()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        let seen = |model: &str| Seen {
            model: model.to_owned(),
            photo: "coffee.png".to_owned(),
            provider: "cpu".to_owned(),
            device: "a processor".to_owned(),
            queue_us: 1,
            batch_us: 2,
            compute_us: 15_400,
            round_trip_us: 20_000,
            found: vec![("espresso".to_owned(), 0.9)],
        };
        Report {
            photos: vec![seen("a"), seen("b")],
            detector: false,
            rule: super::super::road::DENY_RULE.to_owned(),
            allowed: "something".to_owned(),
            replies: 202,
            broker_kills: 1,
            replies_without_broker: 100,
            hub: Ledger {
                upto_seq: [("e".to_owned(), 9)].into(),
                requests: 202,
                records: 9,
                ..Ledger::default()
            },
            outbox_pending: 0,
            reconnects: 1,
        }
    }

    #[test]
    fn each_condition_can_fail() {
        assert_eq!(good().broken(), [""; 0]);
        let check = |spoil: fn(&mut Report)| {
            let mut report = good();
            spoil(&mut report);
            assert_eq!(report.broken().len(), 1, "{report:?}");
        };
        check(|report| report.hub.requests -= 1);
        check(|report| report.hub.missing = 1);
        check(|report| report.rule.clear());
        check(|report| report.outbox_pending = 1);
        check(|report| report.broker_kills = 0);
        check(|report| report.photos[0].found[0].0 = "mug".to_owned());
        check(|report| report.photos[1].device.clear());
        check(|report| {
            report.hub.upto_seq.insert("another".to_owned(), 1);
        });
    }

    #[test]
    fn a_missing_detector_is_said() {
        assert!(good().table().contains("skipped: no npm"));
    }
}
