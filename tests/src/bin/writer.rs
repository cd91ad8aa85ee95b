//! A writer in a process of its own, for tests that kill it. It writes until then.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Parser;
use outbox_tests::load::Load;

#[derive(Debug, Parser)]
struct Args {
    #[arg(long)]
    database: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    pause_ms: u64,
    #[arg(long)]
    hold_ms: u64,
    #[arg(long)]
    seed: u64,
}

fn main() {
    let args = Args::parse();
    let load = Load {
        url: args.database,
        topic: args.topic,
        keys: args.keys,
        most: 4,
        pause: Duration::from_millis(args.pause_ms),
        rate: None,
        committing: None,
        hold: Duration::from_millis(args.hold_ms),
        serializable: false,
        seed: args.seed,
    };
    load.run(&AtomicBool::new(false));
}
