//! How a cluster is reached, and what is asked of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncelog::{AsEngine, Result, Store, StoreOptions};
use rdkafka::ClientConfig;

use crate::Kafka;
use crate::checkpoints::Checkpoints;
use crate::cluster::Cluster;
use crate::engine::Shared;
use crate::restore::Home;
use crate::tx::invalid;

/// What members of all processors are told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) application: String,
    pub(crate) session_timeout: Duration,
    pub(crate) transaction_timeout: Duration,
}

/// Options of a connection, with their defaults; see [`Kafka::options`].
#[derive(Clone)]
#[must_use]
pub struct KafkaOptions {
    config: ClientConfig,
    settings: Settings,
    refused: Option<String>,
    store: StoreOptions,
}

/// Settings of the client library that our guarantees rest on.
const OURS: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "bootstrap.servers",
    "check.crcs",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "heartbeat.interval.ms",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "request.required.acks",
    "session.timeout.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

impl KafkaOptions {
    pub(crate) fn new(servers: &str) -> KafkaOptions {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers);
        // A broker that comes back is noticed soon.
        config.set("reconnect.backoff.max.ms", "1000");
        let settings = Settings {
            application: "oncelog".to_owned(),
            session_timeout: Duration::from_secs(10),
            transaction_timeout: Duration::from_secs(30),
        };
        KafkaOptions { config, settings, refused: None, store: Store::options() }
    }

    /// Names the application, whose instances share the work of its processors: the name is part of those of its
    /// groups, transactional ids and changelog topics. `oncelog` unless set.
    pub fn application(mut self, name: &str) -> KafkaOptions {
        name.clone_into(&mut self.settings.application);
        self
    }

    /// Sets after what time an instance that is not heard of loses its partitions to others: 10 s unless set. An
    /// instance that comes back sooner, also after a kill, has them at once.
    pub fn session_timeout(mut self, timeout: Duration) -> KafkaOptions {
        self.settings.session_timeout = timeout;
        self
    }

    /// Sets how long a commit may take, after which the cluster gives it up: 30 s unless set. Only the commit counts,
    /// not your function.
    pub fn transaction_timeout(mut self, timeout: Duration) -> KafkaOptions {
        self.settings.transaction_timeout = timeout;
        self
    }

    /// Passes a setting to the client library, for all clients that are made: how to log in, above all. Those that our
    /// guarantees rest on are refused when it is opened.
    pub fn set(mut self, key: &str, value: &str) -> KafkaOptions {
        if OURS.contains(&key) {
            self.refused.get_or_insert(key.to_owned());
        } else {
            self.config.set(key, value);
        }
        self
    }

    /// Sets the options of the local store that holds the tables.
    pub fn store(mut self, options: StoreOptions) -> KafkaOptions {
        self.store = options;
        self
    }

    /// Opens the directory `dir`, which holds the tables of this instance, and makes contact with the cluster.
    ///
    /// # Errors
    /// `Unavailable`: no broker answers; `Invalid`: a setting that is not for you to set, or that the client library
    /// does not know; `Locked`: another process has the directory. Others as [`Store::open`].
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Kafka> {
        if let Some(key) = self.refused {
            return Err(invalid(format!("{key:?} is not for you to set: exactly-once rests on it")));
        }
        if self.settings.application.is_empty() {
            return Err(invalid("the application has no name".to_owned()));
        }
        let store = self.store.open(dir)?;
        let cluster = Cluster::connect(&self.config)?;
        let local = store.as_engine();
        let checkpoints = Checkpoints::open(&local)?;
        let home = Arc::new(Home { local, cluster, checkpoints });
        let instance = store.id().to_string();
        Ok(Kafka { shared: Arc::new(Shared::new(home, self.settings, instance)), store })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncelog::ErrorKind;

    #[test]
    fn what_exactly_once_rests_on_is_not_for_others_to_set() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |key| {
            let opened = Kafka::options("127.0.0.1:1").set(key, "x").open(dir.path());
            opened.map(drop).map_err(|error| error.kind())
        };
        assert_eq!(refused("isolation.level"), Err(ErrorKind::Invalid));
        assert_eq!(refused("no.such.setting"), Err(ErrorKind::Invalid));
    }
}
