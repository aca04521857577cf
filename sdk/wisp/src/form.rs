//! Forms, as browsers send them.

use std::fmt::Display;
use std::str::FromStr;

use ::http::{HeaderMap, StatusCode};

use crate::percent::Text;
use crate::{Error, Result, content_type, percent};

const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The fields of a form, `application/x-www-form-urlencoded`. [`RequestExt::form`](crate::RequestExt::form) reads it.
///
/// ```
/// use wisp::{Form, RequestExt};
///
/// let mut request = wisp::test::request("POST", "/order").body("item=red+shoes&size=42&extra=laces&extra=bag");
/// let form: Form = wisp::test::block_on(request.form()).unwrap();
/// assert_eq!(form.get::<String>("item").unwrap().unwrap(), "red shoes");
/// assert_eq!(form.get::<u8>("size").unwrap(), Some(42));
/// assert_eq!(form.get_all::<String>("extra").unwrap(), ["laces", "bag"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// The value of a field, parsed: the first where there are several, `None` where there is none.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/order").body("size=huge");
    /// let form = wisp::test::block_on(request.form()).unwrap();
    /// assert_eq!(form.get::<u8>("amount").unwrap(), None);
    /// let error = form.get::<u8>("size").unwrap_err();
    /// assert_eq!(error.detail(), "`size` in the form is `huge`: invalid digit found in string");
    /// ```
    ///
    /// # Errors
    /// 400 where it doesn't parse.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>> {
        self.values(name).next().transpose()
    }

    /// All values of a field, in their order, parsed.
    ///
    /// ```
    /// # use wisp::RequestExt;
    /// let mut request = wisp::test::request("POST", "/order").body("size=42&size=43");
    /// let form = wisp::test::block_on(request.form()).unwrap();
    /// assert_eq!(form.get_all::<u8>("size").unwrap(), [42, 43]);
    /// ```
    ///
    /// # Errors
    /// 400 where one of them doesn't parse.
    pub fn get_all<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Vec<T>> {
        self.values(name).collect()
    }

    fn values<T: FromStr<Err: Display>>(&self, name: &str) -> impl Iterator<Item = Result<T>> {
        let values = self.0.iter().filter(move |(key, _)| key == name);
        values.map(move |(_, value)| percent::parse(name, Text::Form, value))
    }

    /// Reads a request's body.
    pub(crate) fn from_client(bytes: &[u8]) -> Result<Self> {
        let text =
            str::from_utf8(bytes).map_err(|_| invalid("the body is no UTF-8 text".into()))?;
        let decoded = |raw| {
            let text = percent::decode_query(raw);
            text.ok_or_else(|| invalid(format!("the form holds what is no UTF-8 text: `{raw}`")))
        };
        percent::pairs(text)
            .map(|(key, value)| Ok((decoded(key)?.into_owned(), decoded(value)?.into_owned())))
            .collect::<Result<_>>()
            .map(Self)
    }
}

/// Refuses a body that says of itself that it is something else.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<()> {
    content_type::check(headers, MEDIA_TYPE, |essence| essence == MEDIA_TYPE)
}

fn invalid(detail: String) -> Error {
    Error::new(StatusCode::BAD_REQUEST, "invalid-form", detail)
}
