//! Runners in processes of their own, on a real PostgreSQL or MariaDB and a real Kafka, while things go wrong.
//!
//! Each run is judged by its history: what writers committed against what a consumer reads from the
//! topic's beginning to its end. The seed of all chance is printed; `OUTBOX_TEST_SEED` sets it.

mod clock;
mod connections;
mod contention;
mod crashes;
mod disks;
mod failover;
mod guarantees;
mod mariadb;
mod nemesis;
mod network;
mod outages;
mod pgbouncer;
mod pool;
mod runners;
mod soak;
mod versions;

use outbox_tests::rig;
