//! What an answer of the client library or of a broker means for us. Pure.

use std::fmt;

use oncelog::{Error, ErrorKind};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// An error that names what was tried, of the kind that says what to do.
pub(crate) fn error(doing: impl fmt::Display, cause: KafkaError) -> Error {
    Error::new(kind(&cause), format!("Kafka: cannot {doing}")).because(cause)
}

fn kind(cause: &KafkaError) -> ErrorKind {
    if matches!(cause, KafkaError::ClientConfig(..) | KafkaError::Nul(_)) {
        return ErrorKind::Invalid;
    }
    match cause.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId) => {
            ErrorKind::NotFound
        }
        Some(
            Code::MessageSizeTooLarge
            | Code::NotImplemented
            | Code::InvalidRecord
            | Code::InvalidTopic
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidConfig
            | Code::PolicyViolation
            | Code::InvalidTransactionTimeout
            | Code::InvalidSessionTimeout
            | Code::InconsistentGroupProtocol
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed,
        ) => ErrorKind::Invalid,
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch | Code::FencedInstanceId) => {
            ErrorKind::Fenced
        }
        Some(Code::BadMessage) => ErrorKind::Corrupt,
        Some(Code::UnsupportedVersion) => ErrorKind::UnsupportedVersion,
        _ => ErrorKind::Unavailable,
    }
}

/// What becomes of a transaction after one of its calls has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The call is made again; it goes on where it was.
    CallAgain,
    /// It cannot be committed any more: abort it.
    Abort,
    /// The producer is of no more use, and the outcome is not known: a fresh one finds out.
    Replace,
}

/// After a call that leaves no doubt about the outcome.
pub(crate) fn next(cause: &KafkaError) -> Next {
    match cause {
        KafkaError::Transaction(error) if error.is_fatal() => Next::Replace,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Next::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Next::CallAgain,
        // A call in the wrong state, above all.
        KafkaError::Transaction(_) => Next::Replace,
        KafkaError::Flush(Code::OperationTimedOut) => Next::CallAgain,
        _ => Next::Abort,
    }
}

/// Whether a consumer that was told so goes on by itself. What is not known to pass is told.
pub(crate) fn is_passing(cause: &KafkaError) -> bool {
    let KafkaError::MessageConsumption(code) = cause else { return false };
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
            | Code::WaitingForCoordinator
            | Code::NotCoordinator
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::KafkaStorageError
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
            | Code::PollExceeded
            | Code::RebalanceInProgress
            | Code::IllegalGeneration
            | Code::UnknownMemberId
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind_of(code: Code) -> ErrorKind {
        error("try", KafkaError::MessageProduction(code)).kind()
    }

    #[test]
    fn kinds_say_what_to_do() {
        assert_eq!(kind_of(Code::MessageSizeTooLarge), ErrorKind::Invalid);
        assert_eq!(kind_of(Code::UnknownTopicOrPartition), ErrorKind::NotFound);
        assert_eq!(kind_of(Code::BrokerTransportFailure), ErrorKind::Unavailable);
        assert_eq!(kind_of(Code::InvalidProducerEpoch), ErrorKind::Fenced);
        let text = error("append to topic \"t\"", KafkaError::MessageProduction(Code::MessageSizeTooLarge)).to_string();
        assert!(text.starts_with("Kafka: cannot append to topic \"t\""), "{text}");
    }

    #[test]
    fn a_consumer_goes_on_when_a_broker_is_away() {
        assert!(is_passing(&KafkaError::MessageConsumption(Code::BrokerTransportFailure)));
        assert!(is_passing(&KafkaError::MessageConsumption(Code::AllBrokersDown)));
        for code in
            [Code::TopicAuthorizationFailed, Code::NotImplemented, Code::InvalidSessionTimeout, Code::BadMessage]
        {
            assert!(!is_passing(&KafkaError::MessageConsumption(code)), "{code:?}");
        }
        assert!(!is_passing(&KafkaError::MessageConsumptionFatal(Code::FencedInstanceId)));
    }

    #[test]
    fn what_could_not_be_sent_is_aborted() {
        assert_eq!(next(&KafkaError::MessageProduction(Code::MessageSizeTooLarge)), Next::Abort);
        assert_eq!(next(&KafkaError::Flush(Code::OperationTimedOut)), Next::CallAgain);
    }
}
