//! The tables on SQLite. Times are texts, in UTC, as `2026-01-31T17:00:00.000Z`.

diesel::table! {
    /// The messages that wait to be delivered.
    outbox (id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> Integer,
        /// By which consumers recognise a message that comes twice.
        message_id -> Text,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Text>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Text,
    }
}

diesel::table! {
    /// The lanes, and the runners that hold them.
    outbox_lanes (lane) {
        /// The lane.
        lane -> Integer,
        /// The runner that holds it.
        owner -> Nullable<Text>,
        /// The fencing token: higher with every change of owner.
        epoch -> BigInt,
        /// When the lease ends.
        expires_at -> Text,
    }
}

diesel::table! {
    /// The runners that are alive.
    outbox_runners (runner) {
        /// The runner.
        runner -> Text,
        /// What people call it.
        name -> Text,
        /// When it was started.
        started_at -> Text,
        /// Until when it counts as alive.
        expires_at -> Text,
    }
}

diesel::table! {
    /// The messages of keys that are set aside because one was refused.
    outbox_parked (lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> Integer,
        /// By which consumers recognise a message that comes twice.
        message_id -> Text,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Text>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Text,
        /// When it was parked.
        parked_at -> Text,
        /// How often it was tried. 0 if it waits behind an earlier message of its key.
        attempts -> Integer,
        /// Why it was refused.
        error -> Nullable<Text>,
        /// When it is tried again. None waits for an operator, or behind an earlier message.
        next_attempt_at -> Nullable<Text>,
        /// What is parked and released together.
        ordering_key -> Binary,
    }
}

diesel::table! {
    /// Delivered messages, where the runner keeps them.
    outbox_archive (delivered_at, lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> Integer,
        /// By which consumers recognise a message that comes twice.
        message_id -> Text,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Text>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Text,
        /// When it was delivered.
        delivered_at -> Text,
    }
}

diesel::table! {
    /// Messages that were given up.
    outbox_dead_letters (lane, id) {
        /// The place in the order of messages.
        id -> BigInt,
        /// The unit of ordering and of ownership.
        lane -> Integer,
        /// By which consumers recognise a message that comes twice.
        message_id -> Text,
        /// The topic.
        topic -> Text,
        /// The partition, if the writer chose one.
        partition -> Nullable<Integer>,
        /// The key, if there is one.
        key -> Nullable<Binary>,
        /// The payload. None makes a tombstone.
        payload -> Nullable<Binary>,
        /// The headers, an array of `{"key", "value"}`. [`Headers::from_json`](crate::Headers::from_json) reads it.
        headers -> Nullable<Text>,
        /// The event type.
        event_type -> Nullable<Text>,
        /// When it was written.
        created_at -> Text,
        /// When it was given up.
        refused_at -> Text,
        /// Why it was refused.
        error -> Text,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    outbox,
    outbox_lanes,
    outbox_runners,
    outbox_parked,
    outbox_archive,
    outbox_dead_letters,
);
