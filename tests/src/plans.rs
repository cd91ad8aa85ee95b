//! How PostgreSQL executed a statement, with those inside of functions.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::stream::poll_fn;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio_postgres::{AsyncMessage, NoTls};

/// The plans of one statement and of those that its functions executed, with what they really did.
#[derive(Debug)]
pub struct Explained {
    plans: Vec<Plan>,
    text: String,
}

/// A step of a plan.
#[derive(Debug, Deserialize)]
pub struct Node {
    /// Such as `Index Scan`.
    #[serde(rename = "Node Type")]
    pub kind: String,
    /// The table that it reads or changes, if any.
    #[serde(rename = "Relation Name")]
    pub relation: Option<String>,
    /// How many rows it brought, each time.
    #[serde(rename = "Actual Rows", default)]
    pub rows: f64,
    #[serde(rename = "Shared Hit Blocks", default)]
    hit: u64,
    #[serde(rename = "Shared Read Blocks", default)]
    read: u64,
    #[serde(rename = "Plans", default)]
    children: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Plan {
    #[serde(rename = "Plan")]
    root: Node,
    /// What it took to compile it, if it was.
    #[serde(rename = "JIT")]
    jit: Option<IgnoredAny>,
}

impl Explained {
    /// Executes a statement, on a connection of its own to this database, by a superuser. What may be compiled
    /// (`jit`) is.
    ///
    /// # Errors
    ///
    /// When it fails, or the server explains nothing.
    pub async fn run(url: &str, statement: &str) -> Result<Self> {
        let (client, mut connection) = tokio_postgres::connect(url, NoTls).await?;
        let messages = poll_fn(move |context| connection.poll_message(context));
        let notices = tokio::spawn(messages.collect::<Vec<_>>());
        client
            .batch_execute(
                "LOAD 'auto_explain';
                 SET auto_explain.log_min_duration = 0;
                 SET auto_explain.log_analyze = on;
                 SET auto_explain.log_buffers = on;
                 SET auto_explain.log_timing = off;
                 SET auto_explain.log_nested_statements = on;
                 SET auto_explain.log_format = json;
                 SET jit_above_cost = 0;
                 SET client_min_messages = log",
            )
            .await?;
        client.batch_execute(statement).await?;
        drop(client);

        let mut explained = Self {
            plans: Vec::new(),
            text: String::new(),
        };
        for message in notices.await? {
            let AsyncMessage::Notice(notice) = message? else {
                continue;
            };
            let Some((_, json)) = notice.message().split_once("plan:\n") else {
                continue;
            };
            explained.text.push_str(json);
            explained
                .plans
                .push(serde_json::from_str(json).with_context(|| json.to_owned())?);
        }
        ensure!(!explained.plans.is_empty(), "{statement} was not explained");
        Ok(explained)
    }

    /// All steps of all plans.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.plans.iter().flat_map(Plan::nodes)
    }

    /// Whether a plan with a table in it was compiled.
    pub fn compiled(&self) -> bool {
        let has_table = |plan: &Plan| plan.nodes().any(|node| node.relation.is_some());
        self.plans
            .iter()
            .any(|plan| plan.jit.is_some() && has_table(plan))
    }

    /// How many pages the last statement touched, together with its functions.
    pub fn pages(&self) -> u64 {
        self.plans
            .last()
            .map_or(0, |plan| plan.root.hit + plan.root.read)
    }
}

impl Plan {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut open = vec![&self.root];
        std::iter::from_fn(move || {
            let node = open.pop()?;
            open.extend(&node.children);
            Some(node)
        })
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
