//! An HTTP service that takes each order once, however often a client sends it: the client names its request in the
//! header `Idempotency-Key`, and that name is stored in the same atomic step as the order.
//!
//! ```text
//! http-intake [DIR [PORT]]
//! curl -H 'Idempotency-Key: 7' -H 'Content-Type: application/json' -d '{"customer":"ann","cents":250}' \
//!     localhost:PORT/orders
//! curl localhost:PORT/totals/ann
//! ```

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::io;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use axum::{Json, Router};
use oncelog::{
    Error, ErrorKind, Outcome, Postcard, Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8,
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

#[derive(Serialize, Deserialize)]
struct Order {
    customer: String,
    cents: u64,
}

const ORDERS: TopicDef<Utf8, Postcard<Order>> = TopicDef::new("orders");
/// The requests that were taken, with what they asked for.
const TAKEN: TableDef<Utf8, Postcard<Order>> = TableDef::new("taken");
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");

fn total(order: RecordRef<'_, Utf8, Postcard<Order>>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let cents = order.value()?.cents;
    tx.table(TOTALS)?.update(order.key()?, |sum| sum.unwrap_or(0) + cents)?;
    Ok(Outcome::Commit)
}

/// 201: taken now. 200: was taken before. 409: the name was used for another order.
async fn take(State(store): State<Store>, headers: HeaderMap, Json(order): Json<Order>) -> (StatusCode, String) {
    let Some(name) = headers.get("Idempotency-Key").and_then(|name| name.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, "the header Idempotency-Key is missing\n".to_owned());
    };
    match take_once(&store, name, &order).await {
        Ok(status) => (status, String::new()),
        Err(error) => failed(&error),
    }
}

async fn take_once(store: &Store, name: &str, order: &Order) -> Result<StatusCode> {
    loop {
        let mut tx = store.begin()?;
        if let Some(taken) = tx.table(TAKEN)?.get(name)? {
            let same = (&taken.customer, taken.cents) == (&order.customer, order.cents);
            return Ok(if same { StatusCode::OK } else { StatusCode::CONFLICT });
        }
        tx.table(TAKEN)?.put(name, order)?;
        tx.append(ORDERS, &order.customer, order)?;
        // The answer is sent when the disk has it. Many requests share one sync, and no thread waits meanwhile.
        match tx.commit_async().await {
            Ok(_) => return Ok(StatusCode::CREATED),
            // The same request, twice at once: the other one was first, so look again.
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
    }
}

async fn show(State(store): State<Store>, Path(customer): Path<String>) -> (StatusCode, String) {
    match store.snapshot().and_then(|snapshot| snapshot.get(TOTALS, &customer)) {
        Ok(Some(sum)) => (StatusCode::OK, format!("{sum}\n")),
        Ok(None) => (StatusCode::NOT_FOUND, "no such customer\n".to_owned()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> (StatusCode, String) {
    let status = match error.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Full => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, format!("{error}\n"))
}

#[tokio::main]
async fn main() -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("http-intake"))?;
    let run = Processor::new("totals", ORDERS).table(TOTALS).start(&store, total)?;
    let app =
        Router::new().route("/orders", post(take)).route("/totals/{customer}", get(show)).with_state(store.clone());
    let served = serve(app).await;
    run.stop()?;
    store.close()?;
    served.map_err(Error::user)
}

async fn serve(app: Router) -> io::Result<()> {
    let port = u16::try_from(oncelog_examples::number(2, 0)).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let until_told = async {
        // Without a way to hear of Ctrl-C it is ended by killing it, which harms nothing.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    axum::serve(listener, app).with_graceful_shutdown(until_told).await
}
