//! Kafka's configuration files.

use super::node::Plan;
use std::fmt::Write;
use std::path::Path;

/// Warnings, and when it started and stopped: at the usual level a start alone writes a thousand
/// lines.
pub(super) const LOGGING: &str = "\
status=error
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d{ISO8601} %p %m (%c{1})%n
rootLogger.level=warn
rootLogger.appenderRef.out.ref=out
logger.life.name=kafka.server.KafkaRaftServer
logger.life.level=info
";

/// `server.properties` of the node of this number, which is broker and controller. Of a setting that is
/// given twice, Java takes the last.
pub(super) fn server(plan: &Plan<'_>, id: u16, data: &Path) -> String {
    let voters: Vec<_> = (1..)
        .zip(plan.ports)
        .map(|(id, [_, controller])| format!("{id}@127.0.0.1:{controller}"))
        .collect();
    let [port, controller_port] = plan.ports[usize::from(id) - 1];
    let replicas = plan.ports.len();
    let mut text = format!(
        "\
process.roles=broker,controller
node.id={id}
controller.quorum.voters={voters}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
# 50 of each are the default, which takes seconds to create.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
",
        voters = voters.join(","),
        data = data.display(),
        // More than half.
        in_sync = replicas / 2 + 1,
    );
    // Writing to a string cannot fail.
    if let Some([behind, front]) = plan.proxied.get(usize::from(id) - 1) {
        let _ = write!(
            text,
            "\
listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{front}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
"
        );
    }
    for (name, value) in plan.properties {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}
