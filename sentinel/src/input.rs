//! The value of a secret: from stdin, a file or an argument. Buffers are wiped.

use std::{
    ffi::OsString,
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Read, Write},
    mem,
    os::{fd::AsFd as _, unix::ffi::OsStringExt as _},
    path::PathBuf,
};

use vsecm_safe_api::value::{SecretValue, VALUE_LIMIT};
use zeroize::Zeroizing;

/// No more than this is taken of an input that is too long: one without end is not waited for.
const DISCARDED: usize = 1 << 30;

/// Why there is no value. No error has a byte of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    #[error("cannot read the value from {from}")]
    Read {
        from: String,
        #[source]
        source: io::Error,
    },
    #[error("the value is empty: nothing came by stdin (kubectl exec hands it on only with -i)")]
    NothingCame,
    #[error("the value is empty: -s has an empty argument")]
    EmptyArgument,
    #[error("the value is empty: {} has no bytes", .0.display())]
    EmptyFile(PathBuf),
    #[error("the value has more than {VALUE_LIMIT} bytes (1 MiB)")]
    TooLong,
    #[error(
        "-s is followed by what looks like a flag; \
         if it is the value, pass it by stdin: printf %s VALUE | safe -w NAME -s -"
    )]
    LooksLikeFlag,
}

/// The argument of `-s`: either `-`, or a value. It is wiped when dropped, while the copy in the
/// process's argument area is the kernel's to show: hence the warning.
#[derive(Clone)]
pub(crate) struct ArgvValue(Zeroizing<Vec<u8>>);

impl ArgvValue {
    pub(crate) fn new(argument: OsString) -> Self {
        Self(Zeroizing::new(argument.into_vec()))
    }
}

impl fmt::Debug for ArgvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArgvValue(redacted)")
    }
}

/// Where the value comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
    Argument(ArgvValue),
}

impl Source {
    /// The one source that the arguments give, if any.
    pub(crate) fn parse(argument: Option<ArgvValue>, file: Option<PathBuf>) -> Option<Self> {
        match (argument, file) {
            (Some(ArgvValue(dash)), _) if dash.as_slice() == b"-" => Some(Self::Stdin),
            (Some(value), _) => Some(Self::Argument(value)),
            (None, file) => file.map(Self::File),
        }
    }

    /// Says what a person at the keyboard should know about this source.
    pub(crate) fn remark(&self, err: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Argument(_) => writeln!(
                err,
                "safe: warning: the value stood in the arguments, where process lists and the \
                 audit log of the API server (kubectl exec) keep it; \
                 pass it by stdin: safe -w NAME -s - < FILE"
            ),
            Self::Stdin if io::stdin().is_terminal() => writeln!(
                err,
                "safe: reading the value from the terminal, which shows it; end with Ctrl-D"
            ),
            Self::Stdin | Self::File(_) => Ok(()),
        }
    }

    /// Reads the value, byte for byte.
    pub(crate) fn read(self) -> Result<SecretValue, InputError> {
        match self {
            Self::Stdin => {
                let failed = |source| InputError::Read { from: "stdin".to_owned(), source };
                // std's Stdin would keep a copy in its buffer
                let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
                let mut stdin = File::from(stdin);
                let bytes = read_bounded(&mut stdin).map_err(failed)?;
                if bytes.len() > VALUE_LIMIT {
                    discard(stdin).map_err(failed)?;
                }
                value(bytes, || InputError::NothingCame)
            }
            Self::File(path) => {
                let bytes = File::open(&path).and_then(read_bounded);
                let bytes = bytes.map_err(|source| InputError::Read {
                    from: path.display().to_string(),
                    source,
                })?;
                value(bytes, || InputError::EmptyFile(path))
            }
            Self::Argument(ArgvValue(bytes)) if looks_like_flag(&bytes) => {
                Err(InputError::LooksLikeFlag)
            }
            Self::Argument(ArgvValue(bytes)) => value(bytes, || InputError::EmptyArgument),
        }
    }
}

/// Whether a forgotten value made `-s` take the next flag (`safe -w db -s -d`).
fn looks_like_flag(bytes: &[u8]) -> bool {
    match bytes {
        [b'-', b'-', next, ..] | [b'-', next, ..] => next.is_ascii_alphabetic(),
        _ => false,
    }
}

/// Reads one byte more than is allowed at most, into a buffer that never moves: a buffer that
/// grows would leave copies behind.
fn read_bounded(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let limit = VALUE_LIMIT + 1;
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    from.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Takes what is left of an input that is too long: kubectl exec neither ends nor shows what was
/// said of it before somebody has.
fn discard(mut from: impl Read) -> io::Result<()> {
    let mut bytes = Zeroizing::new([0; 1 << 14]);
    for _ in 0..DISCARDED / bytes.len() {
        if from.read(&mut *bytes)? == 0 {
            break;
        }
    }
    Ok(())
}

fn value(
    mut bytes: Zeroizing<Vec<u8>>,
    empty: impl FnOnce() -> InputError,
) -> Result<SecretValue, InputError> {
    match bytes.len() {
        0 => Err(empty()),
        length if length > VALUE_LIMIT => Err(InputError::TooLong),
        _ => SecretValue::new(mem::take(&mut *bytes)).map_err(|_length| InputError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(text: &str) -> Source {
        Source::parse(Some(ArgvValue::new(text.into())), None).unwrap()
    }

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Source) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let source = Source::parse(None, Some(file.path().to_owned())).unwrap();
        (file, source)
    }

    #[test]
    fn a_dash_means_stdin() {
        assert!(matches!(argument("-"), Source::Stdin));
        assert!(Source::parse(None, None).is_none());
    }

    #[test]
    fn bytes_are_taken_as_they_are() {
        let (_file, source) = file(b"\xff\0 line\r\n\n");
        assert_eq!(source.read().unwrap().expose(), b"\xff\0 line\r\n\n");
    }

    #[test]
    fn what_is_too_long_is_taken_to_its_end() {
        let mut input: &[u8] = &vec![b'x'; 3 << 20];
        assert!(read_bounded(&mut input).unwrap().len() > VALUE_LIMIT);
        discard(&mut input).unwrap();
        assert!(input.is_empty());
        discard(io::repeat(b'x')).expect("one without end is left");
    }

    #[test]
    fn a_value_has_1_byte_to_1_mebibyte() {
        let (_file, source) = file(&vec![b'x'; VALUE_LIMIT]);
        assert!(source.read().is_ok());
        let (_file, source) = file(&vec![b'x'; VALUE_LIMIT + 1]);
        assert!(matches!(source.read(), Err(InputError::TooLong)));
        let (_file, source) = file(b"");
        assert!(matches!(source.read(), Err(InputError::EmptyFile(_))));
        assert!(matches!(argument("").read(), Err(InputError::EmptyArgument)));
    }

    #[test]
    fn a_flag_after_s_is_no_value_while_a_key_or_a_number_is() {
        for flag in ["-d", "-w", "--delete"] {
            let read = argument(flag).read();
            assert!(matches!(read, Err(InputError::LooksLikeFlag)), "{flag}");
        }
        for value in ["-----BEGIN KEY-----", "-5", "--", "a-d"] {
            assert!(argument(value).read().is_ok(), "{value}");
        }
    }

    #[test]
    fn a_value_from_an_argument_is_warned_of_and_not_repeated() {
        let source = argument("canary-7c1f");
        let mut said = Vec::new();
        source.remark(&mut said).unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains("process lists") && said.contains("API server"));
        assert!(!said.contains("canary") && !format!("{source:?}").contains("canary"));
    }
}
