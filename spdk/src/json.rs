//! JSON between SPDK's own representation and `serde_json`.

use std::slice;

use serde::Serialize;
use serde_json::{Map, Number, Value};
use spdk_sys as sys;

use crate::Errno;

/// SPDK's parser allows 64 levels; what is deeper cannot come from it.
const MAX_DEPTH: usize = 64;

/// A place in JSON output of SPDK's where values can be written.
#[derive(Debug)]
pub struct JsonWriter {
    raw: *mut sys::spdk_json_write_ctx,
}

impl JsonWriter {
    /// # Safety
    /// `raw` must be valid for as long as the writer is used.
    pub(crate) unsafe fn from_raw(raw: *mut sys::spdk_json_write_ctx) -> Self {
        Self { raw }
    }

    /// Writes one value.
    ///
    /// # Errors
    /// `INVAL` when `value` cannot be written as JSON, `IO` when SPDK cannot take it.
    pub fn value(&mut self, value: &impl Serialize) -> Result<(), Errno> {
        let text = serde_json::to_string(value).map_err(|_| Errno::INVAL)?;
        // SAFETY: the writer is valid, and copies the text, which is complete JSON.
        let rc = unsafe { sys::spdk_json_write_val_raw(self.raw, text.as_ptr().cast(), text.len()) };
        if rc == 0 { Ok(()) } else { Err(Errno::IO) }
    }

    /// Writes a name and its value, within an object.
    ///
    /// # Errors
    /// As for [`value`](Self::value).
    pub fn named(&mut self, name: &str, value: &impl Serialize) -> Result<(), Errno> {
        // SAFETY: the writer is valid, and copies the name.
        let rc = unsafe { sys::spdk_json_write_name_raw(self.raw, name.as_ptr().cast(), name.len()) };
        if rc != 0 {
            return Err(Errno::IO);
        }
        self.value(value)
    }
}

/// Returns the value that begins at `token`, or `None` where there is none.
///
/// # Errors
/// A sentence that says what of it cannot be taken.
///
/// # Safety
/// `token` must be null or the start of a complete value as SPDK's parser made it.
pub(crate) unsafe fn parse(token: *const sys::spdk_json_val) -> Result<Option<Value>, String> {
    if token.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller vouches for the first token; a container's `len` counts the tokens between its ends.
    let count = unsafe {
        match (*token).type_ {
            OBJECT | ARRAY => usize::try_from((*token).len).ok().and_then(|len| len.checked_add(2)),
            _ => Some(1),
        }
    };
    let count = count.ok_or_else(cut_short)?;
    // SAFETY: as above.
    let mut tokens = unsafe { slice::from_raw_parts(token, count) }.iter();
    next(&mut tokens, 0).map(Some)
}

fn cut_short() -> String {
    "a value is cut short".to_owned()
}

const OBJECT: u32 = sys::spdk_json_val_type::SPDK_JSON_VAL_OBJECT_BEGIN;
const ARRAY: u32 = sys::spdk_json_val_type::SPDK_JSON_VAL_ARRAY_BEGIN;

fn next(tokens: &mut slice::Iter<'_, sys::spdk_json_val>, depth: usize) -> Result<Value, String> {
    use sys::spdk_json_val_type as kind;
    if depth > MAX_DEPTH {
        return Err(format!("values stand within each other more than {MAX_DEPTH} times"));
    }
    let token = tokens.next().ok_or_else(cut_short)?;
    match token.type_ {
        kind::SPDK_JSON_VAL_NULL => Ok(Value::Null),
        kind::SPDK_JSON_VAL_TRUE => Ok(Value::Bool(true)),
        kind::SPDK_JSON_VAL_FALSE => Ok(Value::Bool(false)),
        kind::SPDK_JSON_VAL_NUMBER => number(&text(token)),
        kind::SPDK_JSON_VAL_STRING => Ok(Value::String(text(token))),
        kind::SPDK_JSON_VAL_ARRAY_BEGIN => {
            let mut items = Vec::new();
            while tokens.as_slice().first().ok_or_else(cut_short)?.type_ != kind::SPDK_JSON_VAL_ARRAY_END {
                items.push(next(tokens, depth + 1)?);
            }
            tokens.next();
            Ok(Value::Array(items))
        }
        kind::SPDK_JSON_VAL_OBJECT_BEGIN => object(tokens, depth),
        other => Err(format!("a value is of kind {other}, which cannot be taken")),
    }
}

fn number(text: &str) -> Result<Value, String> {
    let number = serde_json::from_str::<Number>(text);
    number.map(Value::Number).map_err(|_| format!("{} is a number that is too large", shortened(text)))
}

fn object(tokens: &mut slice::Iter<'_, sys::spdk_json_val>, depth: usize) -> Result<Value, String> {
    let mut members = Map::new();
    loop {
        let name = tokens.next().ok_or_else(cut_short)?;
        if name.type_ == sys::spdk_json_val_type::SPDK_JSON_VAL_OBJECT_END {
            return Ok(Value::Object(members));
        }
        let name = text(name);
        let value = next(tokens, depth + 1).map_err(|reason| format!("parameter `{}`: {reason}", shortened(&name)))?;
        if members.contains_key(&name) {
            return Err(format!("parameter `{}` is given twice", shortened(&name)));
        }
        members.insert(name, value);
    }
}

/// Returns the first characters of a text from outside, for a message.
fn shortened(text: &str) -> &str {
    const MOST: usize = 40;
    text.char_indices().nth(MOST).map_or(text, |(end, _)| &text[..end])
}

fn text(token: &sys::spdk_json_val) -> String {
    let Ok(len) = usize::try_from(token.len) else { return String::new() };
    if token.start.is_null() {
        return String::new();
    }
    // SAFETY: names, strings and numbers have `len` bytes at `start`, in the buffer that SPDK parsed.
    let bytes = unsafe { slice::from_raw_parts(token.start.cast::<u8>(), len) };
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(kind: u32, len: usize, text: &str) -> sys::spdk_json_val {
        sys::spdk_json_val {
            start: text.as_ptr().cast_mut().cast(),
            len: u32::try_from(len).unwrap_or_default(),
            type_: kind,
        }
    }

    #[test]
    fn nested_tokens_become_the_value_they_stand_for() {
        use sys::spdk_json_val_type as kind;
        let tokens = [
            token(kind::SPDK_JSON_VAL_OBJECT_BEGIN, 6, "{"),
            token(kind::SPDK_JSON_VAL_NAME, 1, "a"),
            token(kind::SPDK_JSON_VAL_ARRAY_BEGIN, 2, "["),
            token(kind::SPDK_JSON_VAL_NUMBER, 2, "12"),
            token(kind::SPDK_JSON_VAL_TRUE, 4, "true"),
            token(kind::SPDK_JSON_VAL_ARRAY_END, 0, "]"),
            token(kind::SPDK_JSON_VAL_NAME, 1, "b"),
            token(kind::SPDK_JSON_VAL_OBJECT_END, 0, "}"),
        ];
        // SAFETY: the array holds as many tokens as its first one says.
        let cut = unsafe { parse(tokens.as_ptr()) }.expect_err("the last name has no value");
        assert!(cut.contains("parameter `b`"), "{cut}");

        let mut whole = tokens;
        whole[6] = token(kind::SPDK_JSON_VAL_OBJECT_END, 0, "}");
        whole[0].len = 5;
        // SAFETY: as above.
        let value = unsafe { parse(whole.as_ptr()) };
        assert_eq!(value, Ok(Some(serde_json::json!({ "a": [12, true] }))));
    }

    #[test]
    fn no_parameters_are_none() {
        // SAFETY: null is allowed.
        assert_eq!(unsafe { parse(std::ptr::null()) }, Ok(None));
    }
}
