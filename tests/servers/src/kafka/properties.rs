//! Kafka's configuration files.

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

/// `server.properties` of a single node that is broker and controller. Of a setting that is given
/// twice, Java takes the last.
pub(super) fn server(
    port: u16,
    controller_port: u16,
    data: &Path,
    properties: &[(&str, &str)],
) -> String {
    let mut text = format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
log.dirs={data}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# 50 of each are the default, which a single node takes seconds to create.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
share.coordinator.state.topic.num.partitions=4
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
",
        data = data.display()
    );
    for (name, value) in properties {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}={value}");
    }
    text
}
