//! Checkpoints and backups against a server that speaks S3, over the network of one machine. In a crate of its own, so
//! that nobody else builds an HTTP client. All of it is in `tests/s3.rs`.
