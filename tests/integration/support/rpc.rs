//! A client of SPDK's JSON-RPC.

use std::fmt;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Deserializer, Value, json};

/// How long an answer may take, unless the caller says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// An error that the target answered, or why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RpcFailure {
    /// JSON-RPC's code; 0 if there was no answer.
    pub(crate) code: i64,
    /// What the target said.
    pub(crate) message: String,
}

impl RpcFailure {
    fn none(why: impl fmt::Display) -> Self {
        Self { code: 0, message: format!("no answer: {why}") }
    }
}

/// A socket where SPDK takes RPCs. Every call has a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    socket: PathBuf,
}

impl Rpc {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&self, method: &str, params: &Value) -> Result<Value, RpcFailure> {
        let mut request = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
        if !params.is_null() {
            request["params"] = params.clone();
        }
        self.send(request.to_string().as_bytes())
    }

    /// Sends any bytes and waits for an answer.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<Value, RpcFailure> {
        let mut stream = UnixStream::connect(&self.socket).map_err(RpcFailure::none)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(RpcFailure::none)?;
        stream.write_all(bytes).map_err(RpcFailure::none)?;
        let mut answers = Deserializer::from_reader(stream).into_iter::<Value>();
        let answer = answers.next().ok_or_else(|| RpcFailure::none("the connection was closed"))?;
        let mut answer = answer.map_err(RpcFailure::none)?;
        if let Some(error) = answer.get("error") {
            let message = error["message"].as_str().unwrap_or_default().to_owned();
            return Err(RpcFailure { code: error["code"].as_i64().unwrap_or_default(), message });
        }
        Ok(answer["result"].take())
    }

    /// Calls a method; the answer comes later.
    pub(crate) fn begin(&self, method: &str, params: Value) -> Receiver<Result<Value, RpcFailure>> {
        let (rpc, method) = (self.clone(), method.to_owned());
        let (answer, receiver) = channel();
        let call = move || {
            // A test that fails first does not wait for the answer.
            let _ = answer.send(rpc.call(&method, &params));
        };
        thread::Builder::new().name("rpc".to_owned()).spawn(call).expect("a thread can be had");
        receiver
    }

    /// Calls a method that must work.
    #[track_caller]
    pub(crate) fn ok(&self, method: &str, params: &Value) -> Value {
        match self.call(method, params) {
            Ok(result) => result,
            Err(error) => panic!("{method} {params}: {} (code {})", error.message, error.code),
        }
    }

    /// Calls a method that must fail, with every one of `words` in its message.
    #[track_caller]
    pub(crate) fn fails(&self, method: &str, params: &Value, words: &[&str]) -> RpcFailure {
        match self.call(method, params) {
            Ok(result) => panic!("{method} {params} worked, where it should have failed: {result}"),
            Err(error) => {
                for word in words {
                    assert!(
                        error.message.contains(word),
                        "{method} {params} should speak of {word:?}, but says: {} (code {})",
                        error.message,
                        error.code
                    );
                }
                assert_ne!(error.code, 0, "{method} {params}: {}", error.message);
                error
            }
        }
    }
}
