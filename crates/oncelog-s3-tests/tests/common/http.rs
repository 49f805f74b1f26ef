//! How the storage client reaches the server: plain HTTP, a connection for each request. The client that it would bring
//! itself has TLS in it, which on loopback nobody needs and everybody would build.

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use tokio::net::TcpStream;

/// Connects to whatever host a request names.
#[derive(Debug)]
pub(crate) struct Plain;

impl HttpConnector for Plain {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Plain))
    }
}

#[async_trait]
impl HttpService for Plain {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let host = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
        let connect = |error| HttpError::new(HttpErrorKind::Connect, error);
        let connection = TcpStream::connect(&host).await.map_err(connect)?;
        let failed = |error| HttpError::new(HttpErrorKind::Request, error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await.map_err(failed)?;
        tokio::spawn(connection);
        let mut asked = hyper::Request::from_parts(parts, body);
        let host = host.parse().map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
        asked.headers_mut().insert(hyper::header::HOST, host);
        *asked.uri_mut() =
            asked.uri().path_and_query().map(|path| path.as_str().parse()).and_then(Result::ok).unwrap_or_default();
        let answer = sender.send_request(asked).await.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(body)))
    }
}
