//! Reading a topic record by record, each once for a consumer id.

use std::marker::PhantomData;
use std::time::Duration;

use super::def::TopicDef;
use super::group::Grouping;
use super::record::RecordRef;
use super::tx::Tx;
use super::worker::{End, InputName, Settings, Worker};
use crate::codec::Codec;
use crate::consumer::{ConsumerStyle, Outcome, RetryPolicy, Rules};
use crate::error::{Error, Result};
use crate::ids;
use crate::topic::TopicSpec;
use crate::transaction::{Engine, SourceSpec};
use crate::wake::Arc;

/// A place in a topic that only this handle moves.
pub struct Consumer<K, V> {
    worker: Worker,
    topic_name: String,
    codecs: PhantomData<fn() -> (K, V)>,
}

/// How long a blocking consumer sleeps at most before it looks again. It is woken by appends; this only bounds the harm
/// of a wake-up that is lost to a bug.
const WAIT_MAX: Duration = Duration::from_secs(1);

impl<K: Codec, V: Codec> Consumer<K, V> {
    pub(crate) fn open(engine: Arc<dyn Engine>, topic: &TopicDef<K, V>, style: &ConsumerStyle) -> Result<Self> {
        Self::with_retry(engine, topic, style, RetryPolicy::default())
    }

    pub(crate) fn with_retry(
        engine: Arc<dyn Engine>,
        topic: &TopicDef<K, V>,
        style: &ConsumerStyle,
        retry: RetryPolicy,
    ) -> Result<Self> {
        let ConsumerStyle::ClientTx(consumer) = style;
        if let Some(complaint) = ids::name_complaint(consumer) {
            return Err(Error::invalid(format!("consumer {consumer:?}: bad name: {complaint}")));
        }
        let id = engine.open_topic(&topic.spec())?;
        // Each record is durable before the next is handed out: after a crash at most one effect on the outer world is
        // repeated.
        let grouping = Grouping { records: 1, bytes: usize::MAX, interval: Duration::MAX, in_flight: 0 };
        let TopicSpec { name, partitions, .. } = topic.spec();
        let settings = Settings {
            grouping,
            rules: Rules { retry, ..Rules::default() },
            dead_letters: None,
            sharded: false,
            inputs: Arc::new([InputName { topic: id, name, partitions }]),
        };
        let mut sources = engine.sources(&SourceSpec::new(&[id]).consumer(consumer), 1)?;
        let source = sources.pop().ok_or_else(Error::closed)?;
        let worker = Worker::new(engine, source, consumer, settings, Arc::default());
        Ok(Consumer { worker, topic_name: topic.name().to_owned(), codecs: PhantomData })
    }

    /// Hands the records that are there to `process`, `count_max` at most, and returns at the end of the log; gives how
    /// many were done with. Each is one durable commit of its effects and this consumer's progress.
    ///
    /// # Errors
    /// Whatever `process` fails with, as it is (a panic as kind `User`): that record is unprocessed, those before it
    /// are committed. `Gap`: the next record is gone, see [`Consumer::skip_gap`]. `Corrupt`, `Full`, `InDoubt`,
    /// `Closed`.
    pub fn try_process(
        &mut self,
        count_max: Option<u64>,
        mut process: impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<u64> {
        self.run(count_max, &mut process).map(|(count, _)| count)
    }

    /// As [`Consumer::try_process`], but waits at the end of the log for more, until `count_max` records are done with
    /// or `process` answers [`Outcome::Break`].
    ///
    /// # Errors
    /// As [`Consumer::try_process`]; `Closed` when the store is closed meanwhile.
    pub fn process(
        &mut self,
        count_max: Option<u64>,
        mut process: impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<u64> {
        let mut done = 0;
        loop {
            let (count, end) = self.run(count_max.map(|max| max - done), &mut process)?;
            done += count;
            if end != End::Drained {
                return Ok(done);
            }
            self.worker.wait(WAIT_MAX, &|| false);
        }
    }

    /// Goes on behind the records that an error of kind `Gap` said are lost. Durable on return.
    ///
    /// # Errors
    /// `Full`, `InDoubt`, `Closed`.
    pub fn skip_gap(&mut self) -> Result<()> {
        self.worker.skip_gap()
    }

    /// How many records are there that this consumer has not been handed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.worker.lag()
    }

    fn run(
        &mut self,
        count_max: Option<u64>,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<(u64, End)> {
        let name = &self.topic_name;
        self.worker.run(count_max, &|| false, &mut |hand, tx| {
            process(RecordRef::new(hand.view, hand.topic, name, hand.partition), tx)
        })
    }
}
