//! The oldest messages of each lane are read, and settled ones are gone.

use std::collections::HashSet;

use super::*;

/// One of each kind that is easily spoilt.
fn awkward() -> Vec<Message> {
    let large: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    vec![
        Message::new("t").with_key("tombstone"),
        Message::new("t").with_key("empty").with_payload(""),
        Message::new("t").with_key("").with_payload("empty key"),
        Message::new("t").with_payload("no key"),
        Message::new("t")
            .with_key([0, 0xff, b'\'', b'\\'])
            .with_payload([0, 0xff]),
        Message::new("t")
            .with_partition(0)
            .with_payload("partition"),
        Message::new("t")
            .with_partition(7)
            .with_key("k")
            .with_payload("both"),
        Message::new("t").with_key("large").with_payload(large),
        Message::new("t")
            .with_key("headers")
            .with_header("tenant", "ä \" \\ \n")
            .with_header("tenant", "again")
            .with_header("bytes", [0xff, 0x00])
            .with_header("empty", "")
            .with_event_type("Order \"placed\"")
            .with_payload("{}"),
        Message::new("a.b_c-D")
            .with_key("another topic")
            .with_payload("{}"),
    ]
}

pub(super) async fn messages_are_read_as_they_were_written<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let written = awkward();
    let read = owner.insert(&written).await?;
    for (stored, message) in read.iter().zip(&written) {
        require!(
            stored.message == *message,
            "{message:?} was written, but {:?} is read",
            stored.message
        );
        require!(
            stored.defect.is_none(),
            "{message:?} counts as defective: {:?}",
            stored.defect
        );
    }
    let distinct: HashSet<_> = positions(&read).into_iter().collect();
    require!(
        distinct.len() == read.len(),
        "two messages have one position"
    );
    Ok(())
}

pub(super) async fn a_key_is_read_in_the_order_of_writing<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    // By key, and by partition whatever the key.
    let partition = |n: usize| Message::new("t").with_partition(3).with_key(n.to_string());
    let written = [
        keyed("a", 20),
        keyed("b", 20),
        (0..20).map(partition).collect(),
    ]
    .concat();
    for part in written.chunks(7) {
        f.insert(part).await;
    }
    let read = owner.waiting().await?;
    for expected in written.chunks(20) {
        let of_key =
            |stored: &&StoredMessage| stored.message.ordering_key() == expected[0].ordering_key();
        let stored: Vec<_> = read.iter().filter(of_key).collect();
        require!(
            stored.iter().map(|stored| &stored.message).eq(expected),
            "messages of {:?} are read in another order",
            expected[0].ordering_key()
        );
        require!(
            stored
                .iter()
                .all(|s| s.position.lane == stored[0].position.lane),
            "messages of one key are in several lanes"
        );
    }
    for lane in owner.lanes() {
        let ids = read.iter().filter(|stored| stored.position.lane == lane);
        require!(
            ids.is_sorted_by_key(|stored| stored.position.id),
            "lane {lane} is not read in the order of its ids"
        );
    }
    Ok(())
}

pub(super) async fn nothing_but_the_lanes_asked_for_is_read<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&scattered(64)).await?;
    for lane in owner.lanes() {
        let read = f.store().read(&request([lane], 100)).await?;
        let mut expected = all.clone();
        expected.retain(|stored| stored.position.lane == lane);
        require!(
            messages(&read) == messages(&expected),
            "lane {lane} was asked for, and {:?} was read",
            positions(&read)
        );
    }
    let read = f.store().read(&request([], 100)).await?;
    require!(
        read.is_empty(),
        "no lane was asked for, and {:?} was read",
        positions(&read)
    );
    Ok(())
}

pub(super) async fn no_more_is_read_of_a_lane_than_asked_for<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&scattered(128)).await?;
    let read = f.store().read(&request(owner.lanes(), 3)).await?;
    for lane in owner.lanes() {
        let of_lane = |stored: &&StoredMessage| stored.position.lane == lane;
        let oldest: Vec<_> = all.iter().filter(of_lane).take(3).collect();
        let read: Vec<_> = read.iter().filter(of_lane).collect();
        require!(
            read == oldest,
            "3 of lane {lane} were asked for, and {} were read",
            read.len()
        );
    }
    Ok(())
}

pub(super) async fn what_is_excluded_makes_room_for_what_follows<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 20)).await?;
    let mut next = request([all[0].position.lane], 3);
    next.exclude = positions(&all);
    // Some in the middle are not in flight, as after a failure.
    next.exclude.drain(15..);
    next.exclude.remove(4);
    let read = positions(&f.store().read(&next).await?);
    let expected = [all[4].position, all[15].position, all[16].position];
    require!(
        read == expected,
        "{read:?} was read instead of {expected:?}"
    );
    Ok(())
}

pub(super) async fn excluded_topics_make_room_for_others<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    // All in one lane: a partition alone does not decide, so one is looked for.
    let written: Vec<_> = (0..300)
        .map(|n| Message::new(format!("topic-{}", n % 3)).with_payload(n.to_string()))
        .collect();
    let all = owner.insert(&written).await?;
    let mut others = request(owner.lanes(), 2);
    others.topics.except = vec![
        "topic-0".into(),
        "topic-2".into(),
        "it's \"not\" there".into(),
    ];
    only_topic_1(&owner, &all, &f.store().read(&others).await?)
}

pub(super) async fn other_topics_than_asked_for_make_room<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let written: Vec<_> = (0..300)
        .map(|n| Message::new(format!("topic-{}", n % 3)).with_payload(n.to_string()))
        .collect();
    let all = owner.insert(&written).await?;
    let mut restricted = request(owner.lanes(), 2);
    restricted.topics.only = Some(vec!["topic-1".into(), "topic-2".into()]);
    restricted.topics.except = vec!["topic-2".into()];
    only_topic_1(&owner, &all, &f.store().read(&restricted).await?)?;
    restricted.topics.only = Some(Vec::new());
    let read = f.store().read(&restricted).await?;
    require!(read.is_empty(), "of no topics, {read:?} was read");
    Ok(())
}

/// Two of each lane were asked for.
fn only_topic_1<F: StoreFixture>(
    owner: &Owner<'_, F>,
    all: &[StoredMessage],
    read: &[StoredMessage],
) -> Case {
    for lane in owner.lanes() {
        let of_lane = |stored: &&StoredMessage| stored.position.lane == lane;
        let expected = all.iter().filter(of_lane);
        let expected = expected.filter(|stored| stored.message.topic() == "topic-1");
        require!(
            read.iter().filter(of_lane).eq(expected.take(2)),
            "of lane {lane} others than the oldest of the remaining topic were read"
        );
    }
    Ok(())
}

pub(super) async fn reading_stops_when_the_bytes_are_reached<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let message = || {
        Message::new("t")
            .with_key("k")
            .with_payload(vec![b'x'; 10_000])
    };
    let all = owner
        .insert(&std::iter::repeat_with(message).take(10).collect::<Vec<_>>())
        .await?;
    let mut limited = request([all[0].position.lane], 10);
    limited.max_bytes = 25_000;
    let read = f.store().read(&limited).await?;
    require!(
        read == all[..3],
        "with 10,000 bytes a message, and after 25,000 no further one, {} were read instead of 3",
        read.len()
    );
    Ok(())
}

pub(super) async fn one_message_is_read_however_large<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let message = || {
        Message::new("t")
            .with_key("k")
            .with_payload(vec![b'x'; 10_000])
    };
    let all = owner.insert(&[message(), message()]).await?;
    let mut limited = request([all[0].position.lane], 10);
    limited.max_bytes = 1;
    let read = f.store().read(&limited).await?;
    require!(
        read == all[..1],
        "{} messages were read, not the first one",
        read.len()
    );
    Ok(())
}

pub(super) async fn reading_changes_nothing<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&scattered(20)).await?;
    for _ in 0..3 {
        let read = owner.waiting().await?.into_iter().sorted();
        require!(
            read == all.clone().into_iter().sorted(),
            "the second read brought something else than the first"
        );
    }
    Ok(())
}

pub(super) async fn settled_messages_are_gone_and_others_stay<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner
        .insert(&[keyed("k", 10), scattered(30)].concat())
        .await?;
    let (mut settled, mut kept) = (Vec::new(), Vec::new());
    for (n, stored) in all.into_iter().enumerate() {
        match n % 3 {
            0 => settled.push(stored.position),
            _ => kept.push(stored),
        }
    }
    let (deleted, archived) = settled.split_at(settled.len() / 2);
    owner.settle(deleted, false).await?;
    owner.settle(archived, true).await?;
    let left = owner.waiting().await?.into_iter().sorted();
    require!(
        left == kept.into_iter().sorted(),
        "{settled:?} were settled, and {:?} are left",
        positions(&left)
    );
    // Ids are not used again: what is in flight is known by them.
    let new = owner.insert(&scattered(30)).await?;
    let reused = new.iter().find(|stored| settled.contains(&stored.position));
    require!(
        reused.is_none(),
        "a position was used twice: {:?}",
        reused.map(|stored| stored.position)
    );
    Ok(())
}

/// As after an answer that did not come.
pub(super) async fn settling_twice_does_no_harm<F: StoreFixture>(f: &F) -> Case {
    let owner = Owner::new(f).await?;
    let all = owner.insert(&keyed("k", 4)).await?;
    for _ in 0..2 {
        owner.settle(&positions(&all[..2]), false).await?;
        let left = owner.waiting().await?;
        require!(left == all[2..], "{:?} are left", positions(&left));
    }
    // Nor do messages that there are not.
    owner.settle(&positions(&all), false).await?;
    owner.settle(&[], false).await?;
    require!(owner.waiting().await?.is_empty(), "not all were settled");
    Ok(())
}
