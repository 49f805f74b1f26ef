//! Reading one topic: record by record with a function, as an iterator, or batch by batch.
//!
//! Whatever asks for the next record says that the one at hand is done with. In the styles that remember, that is a
//! durable commit of progress before the next one is handed out; a function's effects are in the same commit.

#[cfg(feature = "async")]
mod stream;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::time::Duration;

use super::dead_letter::DeadLetterTopic;
use super::def::TopicDef;
use super::group::Grouping;
use super::plain::Plain;
use super::processor::complaint_of_dead_letters;
use super::record::RecordRef;
use super::tx::{Transaction, Tx};
use super::worker::{End, InputName, Settings, Worker};
use crate::codec::Codec;
use crate::consumer::{ConsumerStyle, FailurePolicy, GapPolicy, Outcome, RetryPolicy, Rules, Visibility, Whence};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{self, LogOffset, PartitionId, TopicId};
use crate::record::Record;
use crate::topic::TopicSpec;
use crate::transaction::{Committed, Engine, Fetched, Source, SourceSpec};
use crate::wake::Arc;

#[cfg(feature = "async")]
pub use stream::RecordStream;

/// How a topic is consumed: the style, and what can be said beside it.
///
/// ```
/// use oncelog::{ConsumerOptions, ConsumerStyle, GapPolicy, Store, TopicDef, Utf8, Whence};
/// # fn main() -> oncelog::Result<()> {
/// const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
/// let store = Store::in_memory()?;
/// let how = ConsumerOptions::new(ConsumerStyle::ClientTx("mail".into())).start(Whence::Latest);
/// // Begins behind what is there now, and there again after a restart.
/// let mut mail = store.consumer(LINES, how.on_gap(GapPolicy::Skip))?;
/// store.producer(LINES)?.append("ann", &"hello".to_owned())?;
/// let record = mail.next().transpose()?;
/// assert_eq!(record.and_then(|record| record.value).as_deref(), Some(&b"hello"[..]));
/// mail.commit()?;
/// # store.close()
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ConsumerOptions {
    style: ConsumerStyle,
    start: Whence,
    visibility: Visibility,
    partitions: Option<Vec<PartitionId>>,
    rules: Rules,
    dead_letters: Option<DeadLetterTopic>,
    commit_records: Option<u64>,
    gaps: GapPolicy,
}

impl ConsumerOptions {
    /// The defaults of a style: all partitions, durable records, retries as [`RetryPolicy::default`] says, gaps are
    /// told. A consumer that is remembered and new begins at [`Whence::Oldest`].
    pub fn new(style: ConsumerStyle) -> ConsumerOptions {
        let start = match style {
            ConsumerStyle::NonTx(whence) => whence,
            _ => Whence::Oldest,
        };
        ConsumerOptions {
            style,
            start,
            visibility: Visibility::Durable,
            partitions: None,
            rules: Rules::default(),
            dead_letters: None,
            commit_records: None,
            gaps: GapPolicy::Stop,
        }
    }

    /// Sets where it begins in a partition in which it has no progress. Of a consumer that is remembered, the place is
    /// found and committed when it is opened first: what is appended from then on is never passed over. For
    /// [`ConsumerStyle::NonTx`] it replaces what the style says.
    pub fn start(self, start: Whence) -> ConsumerOptions {
        ConsumerOptions { start, ..self }
    }

    /// Sets which records it is shown.
    pub fn visibility(self, visibility: Visibility) -> ConsumerOptions {
        ConsumerOptions { visibility, ..self }
    }

    /// Reads only these partitions. The consumer's id is taken for the topic as a whole all the same.
    pub fn partitions(self, partitions: impl IntoIterator<Item = PartitionId>) -> ConsumerOptions {
        ConsumerOptions { partitions: Some(partitions.into_iter().collect()), ..self }
    }

    /// Sets when and how often a record is tried again.
    pub fn retry(self, retry: RetryPolicy) -> ConsumerOptions {
        ConsumerOptions { rules: Rules { retry, ..self.rules }, ..self }
    }

    /// The topic that records go to which are given up: after the last attempt, by [`FailurePolicy::DeadLetter`], or
    /// because the function answers [`Outcome::DeadLetter`]. It is made when the consumer is opened. Key, value and
    /// headers are as they were, and the key decides the partition; headers of ours say where the record was and why it
    /// is there. In the styles that remember, the step past the record is in the same commit. Never a compacted topic
    /// (`Invalid` when the consumer is opened), since letters of one key would take each other's place.
    pub fn dead_letter<DK: Codec, DV: Codec>(self, topic: TopicDef<DK, DV>) -> ConsumerOptions {
        let rules = Rules { dead_letters: true, ..self.rules };
        ConsumerOptions { rules, dead_letters: Some(DeadLetterTopic::of(&topic)), ..self }
    }

    /// Sets what becomes of a record whose function panics.
    pub fn on_panic(self, policy: FailurePolicy) -> ConsumerOptions {
        ConsumerOptions { rules: Rules { on_panic: policy, ..self.rules }, ..self }
    }

    /// Sets what becomes of a record whose function fails.
    pub fn on_error(self, policy: FailurePolicy) -> ConsumerOptions {
        ConsumerOptions { rules: Rules { on_error: policy, ..self.rules }, ..self }
    }

    /// Sets how many records share a commit in `process` and `try_process`: 1 unless set in the styles that remember,
    /// so that after a crash at most one effect on the outer world is repeated; 1000 for [`ConsumerStyle::NonTx`],
    /// where only effects are committed. All are durable when the call returns.
    pub fn commit_records(self, records: u64) -> ConsumerOptions {
        ConsumerOptions { commit_records: Some(records.max(1)), ..self }
    }

    /// Sets what is done when the next records are gone: the error of kind `Gap` is given unless set.
    pub fn on_gap(self, gaps: GapPolicy) -> ConsumerOptions {
        ConsumerOptions { gaps, ..self }
    }
}

impl From<ConsumerStyle> for ConsumerOptions {
    fn from(style: ConsumerStyle) -> ConsumerOptions {
        ConsumerOptions::new(style)
    }
}

/// A place in a topic that only this handle moves.
///
/// It is an [`Iterator`] over owned records that ends where the log ends for now, and goes on when it is asked again
/// later; [`Consumer::waiting`] is one that waits there instead. Asking for the next record commits the one before, in
/// the styles that remember. The last one is not committed by dropping the consumer, since it may not be done with:
/// that is what [`Consumer::commit`] is for. An error does not move the consumer: unless it is of kind `Gap`, stop.
///
/// ```
/// use oncelog::{ConsumerStyle, LogOffset, Store, TopicDef, U64, Utf8};
/// # fn main() -> oncelog::Result<()> {
/// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders");
/// let store = Store::in_memory()?;
/// let orders = store.producer(ORDERS)?;
/// orders.append("ann", &250)?;
/// orders.append("bob", &75)?;
/// let mut audit = store.consumer(ORDERS, ConsumerStyle::ClientTx("audit".into()))?;
/// for record in &mut audit {
///     println!("{:?}", record?.key);
/// }
/// drop(audit); // the end was reached, so both are done with
/// assert_eq!(store.committed_offsets("audit", "orders")?, [LogOffset(2)]);
/// # store.close()
/// # }
/// ```
pub struct Consumer<K, V> {
    engine: Arc<dyn Engine>,
    reading: Reading,
    topic_name: String,
    /// What was handed out last and is not yet said to be done with.
    at_hand: Option<AtHand>,
    /// Records of one partition, read and not yet handed out.
    ahead: VecDeque<Record>,
    /// The offset behind them.
    ahead_next: LogOffset,
    #[cfg(feature = "async")]
    tasks: stream::ForTasks,
    codecs: PhantomData<fn() -> (K, V)>,
}

/// With or without a memory.
enum Reading {
    Plain(Plain),
    Remembered(Worker),
}

/// Records that were handed out and are not yet done with.
#[derive(Clone, Copy)]
struct AtHand {
    topic: TopicId,
    partition: PartitionId,
    from: LogOffset,
    next: LogOffset,
}

/// How long a blocking consumer sleeps at most before it looks again. It is woken by appends; this only bounds the harm
/// of a wake-up that is lost to a bug.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// Records whose effects share a commit where no progress is kept.
const PLAIN_COMMIT_RECORDS: u64 = 1000;
/// Effects that share a commit are not much larger than this.
const COMMIT_BYTES: usize = 1 << 20;

impl<K: Codec, V: Codec> Consumer<K, V> {
    pub(crate) fn open(engine: Arc<dyn Engine>, topic: &TopicDef<K, V>, how: &ConsumerOptions) -> Result<Self> {
        let consumer = match &how.style {
            ConsumerStyle::NonTx(_) => None,
            ConsumerStyle::GlobalTx => Some(""),
            ConsumerStyle::ClientTx(id) => match ids::name_complaint(id) {
                Some(complaint) => return Err(Error::invalid(format!("consumer {id:?}: bad name: {complaint}"))),
                None => Some(id.as_str()),
            },
        };
        let input = topic.spec();
        let buries = [how.rules.on_panic, how.rules.on_error].contains(&FailurePolicy::DeadLetter);
        let complaint = match &how.dead_letters {
            None => buries.then_some("a record that fails is to go to the dead-letter topic, and none is named"),
            Some(topic) => complaint_of_dead_letters(&topic.spec, std::slice::from_ref(&input)),
        };
        if let Some(complaint) = complaint {
            return Err(Error::invalid(format!("a consumer of topic {:?}: {complaint}", input.name)));
        }
        let id = engine.open_input(&input)?;
        let dead_letters = how.dead_letters.as_ref().map(|topic| topic.open(&*engine)).transpose()?;
        let topics = [id];
        let mut spec = SourceSpec::new(&topics).whence(how.start).visibility(how.visibility).gaps(how.gaps);
        (spec.consumer, spec.partitions) = (consumer, how.partitions.as_deref());
        let source = engine.sources(&spec, 1)?.pop().ok_or_else(Error::closed)?;
        #[cfg(feature = "async")]
        let tasks = stream::ForTasks::new(&engine, how, dead_letters, consumer.unwrap_or_default());
        let ours = Arc::clone(&engine);
        let reading = match consumer {
            None => {
                let records = how.commit_records.unwrap_or(PLAIN_COMMIT_RECORDS);
                Reading::Plain(Plain::new(engine, source, how.rules, dead_letters, records))
            }
            Some(consumer) => {
                // Each record is durable before the next is handed out, unless asked for otherwise.
                let records = how.commit_records.unwrap_or(1);
                let grouping = Grouping { records, bytes: COMMIT_BYTES, interval: Duration::MAX, in_flight: 0 };
                let TopicSpec { name, partitions, .. } = input;
                let inputs = Arc::new([InputName { topic: id, name, partitions }]);
                let (rules, gaps) = (how.rules, how.gaps);
                let settings = Settings { grouping, rules, gaps, dead_letters, sharded: false, inputs };
                Reading::Remembered(Worker::new(engine, source, consumer, settings, Arc::default()))
            }
        };
        Ok(Consumer {
            engine: ours,
            reading,
            topic_name: topic.name().to_owned(),
            at_hand: None,
            ahead: VecDeque::new(),
            ahead_next: LogOffset(0),
            #[cfg(feature = "async")]
            tasks,
            codecs: PhantomData,
        })
    }

    /// Hands the records that are there to `process`, `count_max` at most, and returns at the end of the log; gives how
    /// many were done with. Their effects, and the progress of a consumer that is remembered, are durable on return: in
    /// one commit for each record, or for as many as [`ConsumerOptions::commit_records`] says.
    ///
    /// # Errors
    /// Whatever `process` fails with, as it is (a panic as kind `User`): that record is unprocessed, those before it
    /// are committed. `TopicFull`: a topic that it writes to is full; what was not committed is handed out again.
    /// `Gap`: the next record is gone, see [`Consumer::skip_gap`]. `Corrupt`, `Full`, `InDoubt`, `Closed`.
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
            self.reading.source().wait(WAIT_MAX, &|| false);
        }
    }

    /// Records that are there, as many as were read together, borrowed from the read buffer; `None` at the end of the
    /// log. Asking for the next batch, or for anything else, says that this one is done with, and commits that in the
    /// styles that remember. The fastest way through a log: nothing is copied, nothing stands between the records.
    ///
    /// # Errors
    /// `Gap`: the next record is gone, see [`Consumer::skip_gap`]; `Corrupt`, `Full`, `InDoubt`, `Closed`.
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_, K, V>>> {
        self.commit()?;
        self.put_back();
        if !self.reading.source().find_batch()? {
            return self.pass_skipped().map(|()| None);
        }
        let records = self.reading.source().found_batch()?;
        let Fetched { topic, partition, from, next, .. } = records;
        self.at_hand = Some(AtHand { topic, partition, from, next });
        Ok(Some(Batch { records, codecs: PhantomData }))
    }

    /// An iterator that waits at the end of the log for more. It ends when the store is closed, or taken over by
    /// another process, with the error.
    pub fn waiting(&mut self) -> Waiting<'_, K, V> {
        Waiting { consumer: self, closed: false }
    }

    /// Says that the record or batch that was handed out last is done with: durable on return in the styles that
    /// remember. Does nothing if there is none.
    ///
    /// # Errors
    /// `Full`: it did not happen, and may be tried again. `InDoubt`, `Closed`.
    pub fn commit(&mut self) -> Result<()> {
        #[cfg(feature = "async")]
        self.settle()?;
        if let (Some(done), Reading::Remembered(worker)) = (self.at_hand, &mut self.reading) {
            worker.pass(done.topic, done.partition, done.next)?;
        }
        self.at_hand = None;
        Ok(())
    }

    /// As [`Consumer::commit`], with all that is in `transaction`, in one step: what was handed out last is done with
    /// exactly if that happened. Durable on return. In a style that remembers nothing it is the transaction's commit.
    ///
    /// ```
    /// # use oncelog::{ConsumerStyle, Store, TableDef, TopicDef, U64, Utf8};
    /// # fn main() -> oncelog::Result<()> {
    /// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders");
    /// const COUNT: TableDef<Utf8, U64> = TableDef::new("count");
    /// let store = Store::in_memory()?;
    /// store.producer(ORDERS)?.append("ann", &250)?;
    /// let mut orders = store.consumer(ORDERS, ConsumerStyle::ClientTx("count".into()))?;
    /// while let Some(order) = orders.next().transpose()? {
    ///     let mut transaction = store.begin()?;
    ///     transaction.table(COUNT)?.update("orders", |count| count.unwrap_or(0) + 1)?;
    ///     println!("{:?}", order.key);
    ///     orders.commit_with(transaction)?;
    /// }
    /// # store.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Conflict`, `Full`, `TopicFull`: nothing happened, and what was handed out is still at hand: fill another
    /// transaction.
    /// `Invalid`: the transaction is one of another store. `InDoubt`, `Closed`.
    pub fn commit_with(&mut self, transaction: Transaction) -> Result<Committed> {
        #[cfg(feature = "async")]
        self.settle()?;
        let tx = transaction.into_inner(&*self.engine)?;
        let committed = match (self.at_hand, &mut self.reading) {
            (Some(done), Reading::Remembered(worker)) => {
                let committed = worker.submit_pass(tx, done.topic, done.partition, done.next)?.wait()?;
                worker.passed(done.topic, done.partition, done.next);
                committed
            }
            _ => tx.submit()?.wait()?,
        };
        self.at_hand = None;
        Ok(committed)
    }

    /// Says that the record or batch that was handed out last is not done with: it is the next one again.
    pub fn rewind(&mut self) {
        if let Some(AtHand { topic, partition, from, .. }) = self.at_hand.take() {
            self.ahead.clear();
            self.reading.source().seek(topic, partition, from);
        }
    }

    /// Goes on behind the records that an error of kind `Gap` said are lost: at the end of [`Error::gap`], which is the
    /// start offset of the partition when the first of its records were removed. Durable on return in the styles that
    /// remember.
    ///
    /// # Errors
    /// `Full`, `InDoubt`, `Closed`.
    pub fn skip_gap(&mut self) -> Result<()> {
        #[cfg(feature = "async")]
        self.settle()?;
        match &mut self.reading {
            Reading::Remembered(worker) => worker.skip_gap(),
            Reading::Plain(plain) => {
                if let Some((topic, partition, lost)) = plain.source().gap() {
                    plain.source().seek(topic, partition, lost.end);
                }
                Ok(())
            }
        }
    }

    /// The offset of the next record that it will be handed, for each of its partitions.
    pub fn positions(&mut self) -> Vec<(PartitionId, LogOffset)> {
        self.put_back();
        let stands = self.reading.source().positions();
        stands.into_iter().map(|(_, partition, next)| (partition, next)).collect()
    }

    /// How many records are there that this consumer has not been handed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let behind = match &self.reading {
            Reading::Plain(plain) => plain.lag(),
            Reading::Remembered(worker) => worker.lag(),
        };
        behind + self.ahead.len() as u64
    }

    fn run(
        &mut self,
        count_max: Option<u64>,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<(u64, End)> {
        self.commit()?;
        self.put_back();
        let name = &self.topic_name;
        match &mut self.reading {
            Reading::Plain(plain) => plain.run(count_max, process),
            Reading::Remembered(worker) => worker.run(count_max, &|| false, &mut |hand, tx| {
                process(RecordRef::new(hand.view, hand.topic, name, hand.partition), tx)
            }),
        }
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        let record = self.next_there()?;
        if record.is_none() {
            self.pass_skipped()?;
        }
        Ok(record)
    }

    /// There is nothing more for now: records that are lost at the end are passed, so that they are told of once.
    fn pass_skipped(&mut self) -> Result<()> {
        match &mut self.reading {
            Reading::Remembered(worker) => worker.pass_skipped(),
            Reading::Plain(_) => Ok(()),
        }
    }

    fn next_there(&mut self) -> Result<Option<Record>> {
        self.commit()?;
        let record = loop {
            if let Some(record) = self.ahead.pop_front() {
                break record;
            }
            if !self.read_ahead()? {
                return Ok(None);
            }
        };
        let (id, next) = (record.id, self.ahead.front().map_or(self.ahead_next, |next| next.id.offset));
        self.at_hand = Some(AtHand { topic: id.topic, partition: id.partition, from: id.offset, next });
        Ok(Some(record))
    }

    /// Copies the next records that are there out of the read buffer; `false` when there are none.
    fn read_ahead(&mut self) -> Result<bool> {
        let Some(batch) = self.reading.source().poll_batch()? else { return Ok(false) };
        let (topic, partition, from) = (batch.topic, batch.partition, batch.from);
        self.ahead_next = batch.next;
        for view in batch {
            match view {
                Ok(view) => self.ahead.push_back(Record::from_view(&view, topic, partition)),
                Err(error) => {
                    self.ahead.clear();
                    self.reading.source().seek(topic, partition, from);
                    return Err(error);
                }
            }
        }
        Ok(true)
    }

    /// Gives back what was read ahead.
    fn put_back(&mut self) {
        if let Some(record) = self.ahead.front() {
            let id = record.id;
            self.reading.source().seek(id.topic, id.partition, id.offset);
            self.ahead.clear();
        }
    }
}

impl Reading {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Reading::Plain(plain) => plain.source(),
            Reading::Remembered(worker) => worker.source(),
        }
    }
}

impl<K: Codec, V: Codec> Iterator for Consumer<K, V> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.next_record().transpose()
    }
}

/// Whether every later call would be answered with this error.
fn ends_for_good(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Closed | ErrorKind::Fenced)
}

/// See [`Consumer::waiting`].
pub struct Waiting<'c, K, V> {
    consumer: &'c mut Consumer<K, V>,
    closed: bool,
}

impl<K: Codec, V: Codec> Iterator for Waiting<'_, K, V> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        while !self.closed {
            match self.consumer.next_record() {
                Ok(Some(record)) => return Some(Ok(record)),
                Ok(None) => self.consumer.reading.source().wait(WAIT_MAX, &|| false),
                Err(error) => {
                    self.closed = ends_for_good(&error);
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Records that were read together, from [`Consumer::next_batch`].
pub struct Batch<'a, K, V> {
    records: Fetched<'a>,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Batch<'_, K, V> {
    /// The partition that they are from. Not called `partition`, which is a method of every iterator.
    #[must_use]
    pub fn partition_id(&self) -> PartitionId {
        self.records.partition
    }
}

impl<'a, K, V> Iterator for Batch<'a, K, V> {
    type Item = Result<RecordRef<'a, K, V>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let Fetched { topic, topic_name, partition, .. } = self.records;
        let record = self.records.next()?;
        Some(record.map(|view| RecordRef::new(view, topic, topic_name, partition)))
    }
}
