//! Which format a body has, and which one a client gets: from HTTP's header fields, as text, to a closed choice.
//!
//! A client that names nothing gets plain safetensors: more bytes, but every tool reads it. Who names our container
//! gets that: f32 where the run's updates are f32, else bf16, and as a delta where it names a base; unless it asks for
//! one of them by name: `application/vnd.fedlearn.params; encoding=f32`. Models are not sent in the lossy encodings, which
//! are for updates.

use app::api::Encoding;

/// The media type of our container.
pub const CONTAINER: &str = "application/vnd.fedlearn.params";
/// The media type of safetensors.
pub const SAFETENSORS: &str = "application/vnd.safetensors";
/// Bytes of no stated format, as generated clients send them: read as safetensors.
const BYTES: &str = "application/octet-stream";
/// The one `Content-Encoding` known here.
pub const ZSTD: &str = "zstd";

/// What an uploaded body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFormat {
    /// [`CONTAINER`]: says its encoding itself.
    Container,
    /// [`SAFETENSORS`].
    Safetensors {
        /// With `Content-Encoding: zstd`.
        zstd: bool,
    },
}

impl BodyFormat {
    /// Every one.
    const ALL: [Self; 3] = [Self::Container, Self::Safetensors { zstd: false }, Self::Safetensors { zstd: true }];

    /// The word for it in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Safetensors { zstd: false } => "safetensors",
            Self::Safetensors { zstd: true } => "safetensors+zstd",
        }
    }

    /// The way back.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.as_str() == word)
    }
}

/// How parameters are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ModelFormat {
    /// [`CONTAINER`], in that encoding.
    Container(Encoding),
    /// [`SAFETENSORS`].
    Safetensors {
        /// With `Content-Encoding: zstd`.
        zstd: bool,
    },
}

impl ModelFormat {
    /// The value of `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Container(Encoding::F32) => "application/vnd.fedlearn.params; encoding=f32",
            Self::Container(Encoding::Bf16) => "application/vnd.fedlearn.params; encoding=bf16",
            Self::Container(Encoding::Bf16Delta) => "application/vnd.fedlearn.params; encoding=bf16-delta",
            Self::Container(Encoding::Q8) => "application/vnd.fedlearn.params; encoding=q8",
            Self::Container(Encoding::Q4) => "application/vnd.fedlearn.params; encoding=q4",
            Self::Container(Encoding::TopK) => "application/vnd.fedlearn.params; encoding=topk",
            Self::Safetensors { .. } => SAFETENSORS,
        }
    }

    /// The value of `Content-Encoding`, if it is to be sent.
    pub const fn content_encoding(self) -> Option<&'static str> {
        if let Self::Safetensors { zstd: true } = self { Some(ZSTD) } else { None }
    }
}

/// 415: a body of a format that is not read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedMediaType {
    /// No `Content-Type`.
    #[error("Content-Type is missing; known are {CONTAINER} and {SAFETENSORS}")]
    NoType,
    /// Another `Content-Type`.
    #[error("Content-Type is '{0}'; known are {CONTAINER} and {SAFETENSORS}")]
    Type(String),
    /// Another `Content-Encoding`.
    #[error("Content-Encoding is '{0}'; known is zstd, for {SAFETENSORS}")]
    Encoding(String),
    /// An encoding of our container that is not known here.
    #[error("Content-Type is '{0}'; {CONTAINER} can have encoding={known}", known = encodings(Encoding::ALL))]
    ContainerEncoding(String),
    /// Our container is compressed in itself.
    #[error("{CONTAINER} cannot have a Content-Encoding, and this one has '{0}'")]
    EncodedContainer(String),
}

/// 406: none of our representations is acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "Accept is '{accept}'; there are {SAFETENSORS} and {CONTAINER}, the latter with encoding={}, or with bf16-delta \
     against a base that is known",
    encodings(&FULL)
)]
pub struct NotAcceptable {
    /// What was asked for.
    pub accept: String,
}

/// The encodings of a model that need no base.
const FULL: [Encoding; 2] = [Encoding::F32, Encoding::Bf16];

fn encodings(of: &[Encoding]) -> String {
    of.iter().map(|e| e.as_str()).collect::<Vec<_>>().join("|")
}

/// What the header fields of an upload say its body is.
///
/// # Errors
/// A format that is not read here.
pub fn body_format(
    content_type: Option<&str>,
    content_encoding: Option<&str>,
) -> Result<BodyFormat, UnsupportedMediaType> {
    let given = content_type.ok_or(UnsupportedMediaType::NoType)?;
    let (media_type, parameters) = given.split_once(';').unwrap_or((given, ""));
    let media_type = media_type.trim();
    let container = media_type.eq_ignore_ascii_case(CONTAINER);
    if !container && ![SAFETENSORS, BYTES].iter().any(|known| media_type.eq_ignore_ascii_case(known)) {
        return Err(UnsupportedMediaType::Type(given.to_owned()));
    }
    let coding = content_encoding.unwrap_or_default().trim();
    let plain = coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    let encoding = Item { name: media_type, parameters }.parameter("encoding");
    if container && encoding.is_some_and(|given| !Encoding::ALL.iter().any(|e| given.eq_ignore_ascii_case(e.as_str())))
    {
        return Err(UnsupportedMediaType::ContainerEncoding(given.to_owned()));
    }
    match (container, plain) {
        (true, true) => Ok(BodyFormat::Container),
        (true, false) => Err(UnsupportedMediaType::EncodedContainer(coding.to_owned())),
        (false, true) => Ok(BodyFormat::Safetensors { zstd: false }),
        (false, false) if coding.eq_ignore_ascii_case(ZSTD) => Ok(BodyFormat::Safetensors { zstd: true }),
        (false, false) => Err(UnsupportedMediaType::Encoding(coding.to_owned())),
    }
}

/// How to send a model to a client that asks like this (RFC 9110, section 12.5). `run`: the encoding of the run's
/// updates; `base`: whether the client holds a base that we know.
///
/// The highest quality wins; then what is named outright rather than by a wildcard; then, among the named, the
/// container in the encoding that suits the run, and among the others plain safetensors.
///
/// # Errors
/// Nothing that we have is acceptable.
pub fn model_format(
    accept: Option<&str>,
    accept_encoding: Option<&str>,
    run: Encoding,
    base: bool,
) -> Result<ModelFormat, NotAcceptable> {
    let default = match run {
        Encoding::F32 => Encoding::F32,
        _ if base => Encoding::Bf16Delta,
        _ => Encoding::Bf16,
    };
    let accept = accept.unwrap_or("*/*");
    let safetensors = ModelFormat::Safetensors { zstd: wants_zstd(accept_encoding.unwrap_or_default()) };
    let best = FULL
        .into_iter()
        .chain(base.then_some(Encoding::Bf16Delta))
        .map(ModelFormat::Container)
        .chain([safetensors])
        .filter_map(|offer| {
            // RFC 9110: the most specific range decides, however good others are.
            let (specificity, quality) = items(accept).filter_map(|range| fit(&range, offer)).max()?;
            let named = specificity >= EXACT;
            let preference = match offer {
                ModelFormat::Container(encoding) if encoding != default && specificity < WITH_ENCODING => return None,
                ModelFormat::Container(encoding) => u8::from(named) + u8::from(named && encoding == default),
                ModelFormat::Safetensors { .. } => u8::from(!named),
            };
            (quality > 0).then_some(((quality, named, preference), offer))
        })
        .max_by_key(|(rank, _)| *rank);
    best.map(|(_, offer)| offer).ok_or_else(|| NotAcceptable { accept: accept.to_owned() })
}

/// How specific a media range is: `*/*`, `application/*`, a media type, one with its encoding.
const ANY: u8 = 0;
const APPLICATION: u8 = 1;
const EXACT: u8 = 2;
const WITH_ENCODING: u8 = 3;

/// How specifically a range means that offer, and its quality; none if it does not.
fn fit(range: &Item<'_>, offer: ModelFormat) -> Option<(u8, u16)> {
    let name = range.name;
    let (media_type, encoding) = match offer {
        ModelFormat::Container(encoding) => (CONTAINER, Some(encoding)),
        ModelFormat::Safetensors { .. } => (SAFETENSORS, None),
    };
    let specificity = if name == "*/*" {
        ANY
    } else if name.eq_ignore_ascii_case("application/*") {
        APPLICATION
    } else if !name.eq_ignore_ascii_case(media_type) {
        return None;
    } else {
        match (encoding, range.parameter("encoding")) {
            (Some(encoding), Some(asked)) if asked.eq_ignore_ascii_case(encoding.as_str()) => WITH_ENCODING,
            (Some(_), Some(_)) => return None,
            _ => EXACT,
        }
    };
    Some((specificity, range.quality()?))
}

/// Whether zstd is asked for by name, and no less than no coding at all.
fn wants_zstd(accept_encoding: &str) -> bool {
    let quality = |name| items(accept_encoding).find(|i| i.name.eq_ignore_ascii_case(name)).and_then(|i| i.quality());
    quality(ZSTD).is_some_and(|q| q > 0 && q >= quality("identity").unwrap_or(0))
}

/// An element of a comma-separated list: a name and its parameters.
struct Item<'a> {
    name: &'a str,
    parameters: &'a str,
}

/// The elements of a list. No value that is known here has a quoted comma or semicolon, so none is looked for.
fn items(list: &str) -> impl Iterator<Item = Item<'_>> {
    list.split(',').map(|item| {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        Item { name: name.trim(), parameters }
    })
}

impl<'a> Item<'a> {
    fn parameter(&self, name: &str) -> Option<&'a str> {
        let pairs = self.parameters.split(';').filter_map(|p| p.split_once('='));
        let mut named = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim().trim_matches('"'))
    }

    /// In thousandths; 1000 if not given, none if it is not a number from 0 to 1.
    fn quality(&self) -> Option<u16> {
        let Some(text) = self.parameter("q") else { return Some(1000) };
        let quality: f32 = text.parse().ok()?;
        (0.0..=1.0).contains(&quality).then_some((quality * 1000.0).round() as u16)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use ModelFormat::{Container, Safetensors};

    fn offered(accept: &str) -> Result<ModelFormat, NotAcceptable> {
        model_format(Some(accept), None, Encoding::Bf16, false)
    }

    #[test]
    fn a_client_that_names_nothing_gets_plain_safetensors() {
        assert_eq!(model_format(None, None, Encoding::Bf16, false), Ok(Safetensors { zstd: false }));
        assert_eq!(offered("*/*"), Ok(Safetensors { zstd: false }));
        assert_eq!(offered("application/*"), Ok(Safetensors { zstd: false }));
        assert_eq!(offered("text/html, application/json;q=0.9, */*;q=0.1"), Ok(Safetensors { zstd: false }));
    }

    #[test]
    fn who_names_the_container_gets_it_in_the_runs_encoding() {
        assert_eq!(offered(CONTAINER), Ok(Container(Encoding::Bf16)));
        assert_eq!(model_format(Some(CONTAINER), None, Encoding::F32, false), Ok(Container(Encoding::F32)));
        assert_eq!(offered("Application/VND.fedlearn.params, */*"), Ok(Container(Encoding::Bf16)));
        assert_eq!(offered("application/vnd.safetensors, application/vnd.fedlearn.params"), offered(CONTAINER));
    }

    #[test]
    fn an_encoding_asked_for_goes_before_the_runs() {
        assert_eq!(offered("application/vnd.fedlearn.params; encoding=f32"), Ok(Container(Encoding::F32)));
        assert_eq!(offered("application/vnd.fedlearn.params;Encoding=\"F32\";q=0.5"), Ok(Container(Encoding::F32)));
        let both = "application/vnd.fedlearn.params;encoding=f32, application/vnd.fedlearn.params;encoding=bf16";
        assert_eq!(offered(both), Ok(Container(Encoding::Bf16)));
        let either = "application/vnd.fedlearn.params;encoding=f32, application/vnd.safetensors";
        assert_eq!(offered(either), Ok(Container(Encoding::F32)));
    }

    #[test]
    fn who_holds_a_base_gets_a_delta_unless_the_run_is_f32_or_it_asks_for_another() {
        let with_base = |accept, run| model_format(Some(accept), None, run, true);
        for run in [Encoding::Bf16, Encoding::Bf16Delta, Encoding::Q8, Encoding::Q4, Encoding::TopK] {
            assert_eq!(with_base(CONTAINER, run), Ok(Container(Encoding::Bf16Delta)));
            assert_eq!(model_format(Some(CONTAINER), None, run, false), Ok(Container(Encoding::Bf16)));
        }
        assert_eq!(with_base(CONTAINER, Encoding::F32), Ok(Container(Encoding::F32)));
        let bf16 = "application/vnd.fedlearn.params; encoding=bf16";
        assert_eq!(with_base(bf16, Encoding::Bf16), Ok(Container(Encoding::Bf16)));
        assert_eq!(with_base("*/*", Encoding::Bf16), Ok(Safetensors { zstd: false }));
    }

    #[test]
    fn a_delta_without_a_base_and_the_lossy_encodings_are_not_acceptable() {
        for encoding in ["bf16-delta", "q8", "q4", "topk"] {
            let accept = format!("{CONTAINER}; encoding={encoding}");
            assert_eq!(offered(&accept), Err(NotAcceptable { accept: accept.clone() }));
        }
    }

    #[test]
    fn the_highest_quality_wins_and_none_is_excluded() {
        assert_eq!(
            offered("application/vnd.fedlearn.params;q=0.3, application/vnd.safetensors;q=0.8"),
            Ok(Safetensors { zstd: false })
        );
        assert_eq!(offered("application/vnd.safetensors;q=0, */*"), Ok(Container(Encoding::Bf16)));
        assert_eq!(
            offered("application/vnd.fedlearn.params, application/vnd.fedlearn.params;encoding=bf16;q=0"),
            Err(NotAcceptable {
                accept: "application/vnd.fedlearn.params, application/vnd.fedlearn.params;encoding=bf16;q=0".into()
            })
        );
    }

    #[test]
    fn what_we_do_not_have_is_not_acceptable() {
        for accept in
            ["text/html", "application/vnd.fedlearn.params; encoding=q3", "*/*;q=0", "*/*;q=2", "*/*;q=high", "", ";,;"]
        {
            assert_eq!(offered(accept), Err(NotAcceptable { accept: accept.into() }), "{accept}");
        }
    }

    #[test]
    fn zstd_is_for_those_who_name_it() {
        let zstd = |codings| match model_format(None, Some(codings), Encoding::Bf16, false) {
            Ok(Safetensors { zstd }) => zstd,
            other => panic!("{other:?}"),
        };
        assert!(zstd("zstd"));
        assert!(zstd("gzip, deflate, br, ZSTD;q=0.5"));
        assert!(!zstd("gzip"));
        assert!(!zstd("*"));
        assert!(!zstd("zstd;q=0"));
        assert!(!zstd("zstd;q=0.2, identity;q=0.9"));
    }

    #[test]
    fn a_format_is_sent_under_the_name_by_which_it_is_read() {
        let safetensors = [Safetensors { zstd: false }, Safetensors { zstd: true }];
        for format in Encoding::ALL.iter().map(|encoding| Container(*encoding)).chain(safetensors) {
            let read = body_format(Some(format.content_type()), format.content_encoding()).unwrap();
            let want = match format {
                Container(_) => BodyFormat::Container,
                Safetensors { zstd } => BodyFormat::Safetensors { zstd },
            };
            assert_eq!(read, want);
        }
    }

    #[test]
    fn an_upload_of_another_kind_is_unsupported() {
        use UnsupportedMediaType as U;
        assert_eq!(body_format(Some("application/octet-stream"), None), Ok(BodyFormat::Safetensors { zstd: false }));
        assert_eq!(body_format(None, None), Err(U::NoType));
        assert_eq!(body_format(Some("application/json"), None), Err(U::Type("application/json".into())));
        assert_eq!(body_format(Some(SAFETENSORS), Some("gzip")), Err(U::Encoding("gzip".into())));
        assert_eq!(body_format(Some(SAFETENSORS), Some("zstd, zstd")), Err(U::Encoding("zstd, zstd".into())));
        assert_eq!(body_format(Some(CONTAINER), Some("zstd")), Err(U::EncodedContainer("zstd".into())));
        let unknown = "application/vnd.fedlearn.params; encoding=q3";
        assert_eq!(body_format(Some(unknown), None), Err(U::ContainerEncoding(unknown.into())));
    }
}
