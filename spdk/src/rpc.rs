//! JSON-RPC methods on SPDK's own socket, with parameters typed by serde.

use std::ffi::{CStr, CString};
use std::fmt::Display;
use std::ptr::NonNull;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use spdk_sys as sys;

use crate::json::JsonWriter;
use crate::{Errno, json, running};

/// JSON-RPC 2.0 section 5.1: the parameters are not valid.
pub(crate) const INVALID_PARAMS: i32 = -32602;
/// JSON-RPC 2.0 section 5.1: an error within the server.
pub const INTERNAL_ERROR: i32 = -32603;

/// When a method may be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Before `framework_start_init` only.
    Startup,
    /// Once the subsystems are up.
    Runtime,
    /// Always.
    Any,
}

/// A method: its name, its parameters and what it does.
pub trait Method: 'static {
    /// The name that clients call it by.
    const NAME: &'static CStr;
    /// When it may be called.
    const STATE: State = State::Runtime;
    /// Its parameters. Derive `Deserialize` with `deny_unknown_fields`, so that a misspelt one is refused.
    type Params: DeserializeOwned;

    /// Carries it out, on the application's thread. The answer may be given later.
    fn call(params: Self::Params, request: Request);
}

/// An error for a client: a code, and a sentence that says what was wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    code: i32,
    message: String,
}

impl RpcError {
    /// The parameters are not valid.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: INVALID_PARAMS, message: message.into() }
    }

    /// Returns the method failed with an error number.
    #[must_use]
    pub fn failed(errno: Errno, message: impl Into<String>) -> Self {
        Self { code: errno.negated(), message: message.into() }
    }

    /// Returns the sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// A client's call that waits for its answer. One that is dropped is answered as an internal error.
#[derive(Debug)]
pub struct Request(Option<NonNull<sys::spdk_jsonrpc_request>>);

impl Request {
    /// Answers with a result or an error.
    pub fn answer(self, result: Result<impl Serialize, RpcError>) {
        match result {
            Ok(value) => self.reply(&value),
            Err(error) => self.fail(&error),
        }
    }

    /// Answers with a result.
    pub fn reply(mut self, value: &impl Serialize) {
        // Written in full before SPDK's answer is begun: an answer that was begun cannot become an error.
        let value = match serde_json::to_value(value) {
            Ok(value) => value,
            Err(error) => {
                return self.fail(&RpcError { code: INTERNAL_ERROR, message: error.to_string() });
            }
        };
        let Some(raw) = self.0.take() else { return };
        // SAFETY: the request is live and answered once; the writer is used in between only.
        unsafe {
            let out = sys::spdk_jsonrpc_begin_result(raw.as_ptr());
            if JsonWriter::from_raw(out).value(&value).is_err() {
                log::error!("an answer to an RPC could not be written");
            }
            sys::spdk_jsonrpc_end_result(raw.as_ptr(), out);
        }
    }

    /// Answers with an error.
    pub fn fail(mut self, error: &RpcError) {
        self.send_error(error.code, &error.message);
    }

    fn send_error(&mut self, code: i32, message: &str) {
        let Some(raw) = self.0.take() else { return };
        let message = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
        // SAFETY: the request is live and answered once; SPDK copies the message.
        unsafe { sys::spdk_jsonrpc_send_error_response(raw.as_ptr(), code, message.as_ptr()) };
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.send_error(INTERNAL_ERROR, "the method gave no answer");
    }
}

/// Makes `M` known to SPDK's RPC server. To be called before SPDK starts, once per method.
///
/// # Panics
/// When SPDK has started.
pub fn register<M: Method>() {
    let _registering = running::registering();
    let mask = match M::STATE {
        State::Startup => sys::SPDK_RPC_STARTUP,
        State::Runtime => sys::SPDK_RPC_RUNTIME,
        State::Any => sys::SPDK_RPC_STARTUP | sys::SPDK_RPC_RUNTIME,
    };
    // SAFETY: the name is static, and `handle` is what SPDK expects of a handler; nobody else registers anything, and
    // SPDK has not started.
    unsafe { sys::spdk_rpc_register_method(M::NAME.as_ptr(), Some(handle::<M>), mask) };
}

unsafe extern "C" fn handle<M: Method>(request: *mut sys::spdk_jsonrpc_request, params: *const sys::spdk_json_val) {
    let request = Request(NonNull::new(request));
    // SAFETY: SPDK gives the tokens that its parser made, or null.
    let params = unsafe { json::parse(params) };
    let decoded = params.and_then(|params| decode::<M::Params>(params.unwrap_or_else(|| Value::Object(Map::new()))));
    match decoded {
        Ok(params) => M::call(params, request),
        Err(reason) => request.fail(&RpcError::invalid(format!("{}: {reason}", M::NAME.to_string_lossy()))),
    }
}

/// Returns the parameters, or a sentence that names the one that is wrong.
fn decode<P: DeserializeOwned>(params: Value) -> Result<P, String> {
    if !params.is_object() {
        return Err("the parameters must be an object of names and values".to_owned());
    }
    serde_path_to_error::deserialize(params).map_err(|error| {
        let path = error.path().to_string();
        let reason = in_words(&error.into_inner().to_string());
        if path == "." { reason } else { format!("parameter `{path}`: {reason}") }
    })
}

/// Returns what serde says of a value of the wrong type, in the words of whoever writes JSON instead of Rust's.
fn in_words(reason: &str) -> String {
    let types = reason.strip_prefix("invalid type: ").or_else(|| reason.strip_prefix("invalid value: "));
    let Some((found, expected)) = types.and_then(|types| types.rsplit_once(", expected ")) else {
        return reason.to_owned();
    };
    let number = |least: &dyn Display, most: &dyn Display| format!("a whole number from {least} to {most}");
    let expected = match expected {
        "u8" => number(&0, &u8::MAX),
        "u16" => number(&0, &u16::MAX),
        "u32" => number(&0, &u32::MAX),
        "u64" | "usize" => number(&0, &u64::MAX),
        "i32" => number(&i32::MIN, &i32::MAX),
        "i64" => number(&i64::MIN, &i64::MAX),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "an array".to_owned(),
        "a map" => "an object".to_owned(),
        other => other.to_owned(),
    };
    let found = match found {
        "map" => "an object",
        "sequence" => "an array",
        other => ["string ", "integer ", "floating point ", "boolean "]
            .iter()
            .find_map(|kind| other.strip_prefix(kind))
            .map_or(other, |value| value.trim_matches('`')),
    };
    format!("expected {expected}, got {found}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::decode;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Params {
        name: String,
        #[serde(default)]
        nsid: Option<u32>,
        #[serde(default)]
        wait: bool,
        #[serde(default)]
        limit: i32,
    }

    #[test]
    fn good_parameters_are_decoded() {
        let params = decode::<Params>(json!({ "name": "a", "nsid": 3 }));
        assert_eq!(params, Ok(Params { name: "a".to_owned(), nsid: Some(3), wait: false, limit: 0 }));
    }

    #[test]
    fn a_missing_parameter_is_named() {
        let reason = decode::<Params>(json!({})).expect_err("name is missing");
        assert!(reason.contains("missing field `name`"), "{reason}");
    }

    #[test]
    fn a_wrong_type_is_told_with_the_parameter_the_value_and_what_is_right_in_the_words_of_json() {
        let told = |params| decode::<Params>(params).expect_err("it is of the wrong type");
        let whole = "expected a whole number from 0 to 4294967295, got";
        for (value, got) in [
            (json!("x, expected u8"), "\"x, expected u8\""),
            (json!(-1), "-1"),
            (json!(1_u64 << 32), "4294967296"),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
            (json!([1]), "an array"),
            (json!({}), "an object"),
        ] {
            assert_eq!(told(json!({ "name": "a", "nsid": value })), format!("parameter `nsid`: {whole} {got}"));
        }
        assert_eq!(told(json!({ "name": 5 })), "parameter `name`: expected a string, got 5");
        assert_eq!(told(json!({ "name": null })), "parameter `name`: expected a string, got null");
        assert_eq!(told(json!({ "name": "a", "wait": "no" })), "parameter `wait`: expected true or false, got \"no\"");
        assert_eq!(
            told(json!({ "name": "a", "limit": 1_u64 << 40 })),
            "parameter `limit`: expected a whole number from -2147483648 to 2147483647, got 1099511627776"
        );
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        let reason = decode::<Params>(json!({ "name": "a", "nsd": 1 })).expect_err("nsd is unknown");
        assert!(reason.contains("nsd") && reason.contains("nsid"), "{reason}");
    }

    #[test]
    fn parameters_that_are_no_object_are_refused() {
        assert!(decode::<Params>(json!([1, 2])).is_err());
    }
}
