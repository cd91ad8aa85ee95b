DROP TABLE outbox_audit;
DROP TABLE outbox_dead_letters;
DROP TABLE outbox_archive;
DROP TABLE outbox_paused;
DROP TABLE outbox_parked;
DROP TABLE outbox_runners;
DROP TABLE outbox_lanes;
DROP TABLE outbox;
