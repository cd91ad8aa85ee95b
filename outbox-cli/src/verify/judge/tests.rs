use super::*;

const NOW: i64 = 1_000_000_000;

fn id(n: u8) -> Uuid {
    Uuid::from_u128(n.into())
}

/// The message of this number, of one key, delivered long after it was written and long ago.
fn written(n: u8) -> Written {
    Written {
        message: id(n),
        topic: 0,
        id: n.into(),
        place: Place::Archive,
        partition: -1,
        key: 7,
        created: NOW - 500_000 + i64::from(n),
        delivered: NOW - 400_000 + i64::from(n),
    }
}

fn arrived(n: u8, offset: i64) -> Arrived {
    Arrived {
        message: id(n),
        topic: 0,
        is_dead_letter: false,
        partition: 0,
        offset,
        key: 1,
        has_key: true,
        time: NOW - 400_000 + i64::from(n),
    }
}

fn limits() -> Limits {
    Limits {
        topics: vec![Known::default()],
        archive: Some(Archived {
            from: NOW - 900_000,
            to: NOW,
            goes_on: true,
        }),
        read_from: NOW,
    }
}

fn judge(
    written: impl IntoIterator<Item = Written>,
    arrived: impl IntoIterator<Item = Arrived>,
    limits: &Limits,
) -> (Vec<(Kind, u128)>, Unknown) {
    let mut gathered = Gathered::new().unwrap();
    for written in written {
        gathered.written(&written).unwrap();
    }
    for arrived in arrived {
        gathered.arrived(&arrived).unwrap();
    }
    let mut found = Vec::new();
    let tell = |finding: Finding| found.push((finding.kind, finding.message.as_u128()));
    let unknown = gathered.judge(limits, tell).unwrap();
    found.sort_unstable();
    (found, unknown)
}

fn log(order: &[u8]) -> Vec<Arrived> {
    order
        .iter()
        .zip(0..)
        .map(|(&n, at)| arrived(n, at))
        .collect()
}

#[test]
fn what_is_as_it_was_written_has_no_faults() {
    let waiting = Written {
        place: Place::Elsewhere,
        delivered: i64::MAX,
        ..written(4)
    };
    let all = [written(1), written(2), written(3), waiting];
    assert_eq!(judge(all, log(&[1, 2, 3]), &limits()), Default::default());
    // It was delivered, and is not settled yet.
    assert_eq!(
        judge(all, log(&[1, 2, 3, 4]), &limits()),
        Default::default()
    );
}

#[test]
fn every_planted_fault_is_found() {
    /// The rows, the records in their order, and what is to be found.
    type Case = (&'static [u8], &'static [u8], &'static [(Kind, u128)]);
    let cases: [Case; 7] = [
        (&[1, 2, 3], &[1, 3], &[(Kind::Lost, 2)]),
        (&[1, 2], &[1, 2, 9], &[(Kind::Phantom, 9)]),
        (&[1, 2, 3], &[1, 2, 3, 2], &[(Kind::Duplicate, 2)]),
        (&[1, 2, 3], &[1, 3, 2], &[(Kind::Reordered, 3)]),
        (
            &[1, 2, 3],
            &[2, 3, 1],
            &[(Kind::Reordered, 2), (Kind::Reordered, 3)],
        ),
        // Later occurrences don't count.
        (
            &[1, 2, 3],
            &[1, 2, 1, 2, 3],
            &[(Kind::Duplicate, 1), (Kind::Duplicate, 2)],
        ),
        (
            &[1, 2, 3],
            &[1, 3, 2, 3],
            &[(Kind::Reordered, 3), (Kind::Duplicate, 3)],
        ),
    ];
    for (rows, records, expected) in cases {
        let rows = rows.iter().map(|&n| written(n));
        let (found, _) = judge(rows, log(records), &limits());
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{records:?}");
    }
}

#[test]
fn other_keys_and_partitions_have_an_order_of_their_own() {
    let other_key = Written {
        key: 8,
        ..written(1)
    };
    let (found, _) = judge([other_key, written(2)], log(&[2, 1]), &limits());
    assert_eq!(found, []);
    let elsewhere = Arrived {
        partition: 1,
        ..arrived(1, 9)
    };
    let (found, _) = judge(
        [written(1), written(2)],
        [arrived(2, 0), elsewhere],
        &limits(),
    );
    assert_eq!(found, []);
}

#[test]
fn what_may_have_been_dropped_is_not_called_lost() {
    let not_lost = |known: Known, row: Written| {
        let limits = Limits {
            topics: vec![known],
            ..limits()
        };
        let (found, unknown) = judge([row], [], &limits);
        assert_eq!(found.is_empty(), unknown.lost == 1);
        found.is_empty()
    };
    let dropped = |partition, before| Known {
        dropped_before: BTreeMap::from([(partition, before)]),
        ..Known::default()
    };
    let row = written(1);
    assert!(!not_lost(Known::default(), row));
    // It was written before the oldest one that is there, or long after.
    assert!(not_lost(dropped(0, row.created + 1), row));
    assert!(not_lost(dropped(0, row.created - MARGIN), row));
    assert!(!not_lost(dropped(0, row.created - MARGIN - 1), row));
    // Another partition than its own.
    let in_partition = Written {
        partition: 1,
        ..row
    };
    assert!(!not_lost(dropped(0, i64::MAX), in_partition));
    assert!(not_lost(dropped(1, i64::MAX), in_partition));
    let compacted = Known {
        is_compacted: true,
        ..Known::default()
    };
    assert!(not_lost(compacted, row));
    let hidden = |after| Known {
        hidden_after: Some(after),
        ..Known::default()
    };
    assert!(not_lost(hidden(row.delivered), row));
    assert!(!not_lost(hidden(row.delivered + MARGIN + 1), row));
    // It was delivered while the topics were read.
    let just_now = Written {
        delivered: NOW - MARGIN,
        ..row
    };
    assert!(not_lost(Known::default(), just_now));
}

#[test]
fn what_was_refused_for_good_is_not_lost() {
    let letter = Arrived {
        is_dead_letter: true,
        ..arrived(1, 0)
    };
    assert_eq!(judge([written(1)], [letter], &limits()), Default::default());
}

#[test]
fn what_the_archive_may_not_have_is_not_called_phantom() {
    let not_phantom = |archive: Option<Archived>, record: Arrived| {
        let limits = Limits {
            archive,
            ..limits()
        };
        let (found, unknown) = judge([], [record], &limits);
        assert_eq!(found.is_empty(), unknown.phantom == 1);
        found.is_empty()
    };
    let record = arrived(1, 0);
    let archive = |from, to, goes_on| Some(Archived { from, to, goes_on });
    assert!(not_phantom(None, record));
    let before = record.time - MARGIN - 1;
    assert!(not_phantom(archive(before + 1, NOW, true), record));
    assert!(!not_phantom(archive(before, NOW, true), record));
    assert!(not_phantom(archive(before, record.time, false), record));
    assert!(!not_phantom(archive(before, record.time, true), record));
    let after = record.time + MARGIN + 1;
    assert!(!not_phantom(archive(before, after, false), record));
}

/// Without a row there is only the time in the id, and only in one of version 7.
#[test]
fn ids_that_go_back_in_time_are_suspect_and_no_fault() {
    use uuid::{NoContext, Timestamp};
    let at = |seconds| Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, 0));
    let none = Limits {
        archive: None,
        ..limits()
    };
    let record = |message, offset| Arrived {
        message,
        ..arrived(0, offset)
    };
    let late = at(200);
    let (found, unknown) = judge([], [record(late, 0), record(at(100), 1)], &none);
    assert_eq!(found, [(Kind::Suspect, late.as_u128())]);
    assert_eq!((unknown.phantom, unknown.order), (2, 2));
    let (found, _) = judge([], [record(at(100), 0), record(late, 1)], &none);
    assert_eq!(found, []);
    let random = [Uuid::from_u128(9 << 76 | 4 << 76), Uuid::from_u128(1)];
    let (found, _) = judge([], [record(random[0], 0), record(random[1], 1)], &none);
    assert_eq!(found, []);
}
