//! What went wrong, as the error code that `wasi:http` has for it.

use std::error::Error as StdError;
use std::io;

use wasmtime_wasi_http::Error;

use crate::connect::ConnectError;

/// The error code for whatever the client came back with.
pub(crate) fn error_code(error: &(dyn StdError + 'static)) -> Error {
    let spoken = find::<hyper::Error>(error);
    find::<ConnectError>(error)
        .map(from_connect)
        .or_else(|| find::<rustls::Error>(error).map(from_tls))
        .or_else(|| find::<Error>(error).map(from_guest))
        // An end in the middle of a response; before there was a connection it is the connection's end.
        .or_else(|| {
            spoken
                .and(find::<io::Error>(error))
                .filter(|error| error.kind() == io::ErrorKind::UnexpectedEof)
                .map(|_| Error::HttpResponseIncomplete)
        })
        .or_else(|| find::<io::Error>(error).and_then(from_io))
        .or_else(|| spoken.map(from_hyper))
        .unwrap_or(Error::HttpProtocolError)
}

/// The first `T` among an error and its causes. What an [`io::Error`] was made of counts as its cause.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn from_connect(error: &ConnectError) -> Error {
    match error {
        ConnectError::NoTarget => Error::HttpRequestUriInvalid,
        ConnectError::Denied => Error::HttpRequestDenied,
        ConnectError::Resolve(_) => Error::DnsError {
            rcode: None,
            info_code: None,
        },
        ConnectError::NoAddress => Error::DestinationNotFound,
        ConnectError::Prohibited(_) => Error::DestinationIpProhibited,
        ConnectError::TooMany(_) => Error::ConnectionLimitReached,
        ConnectError::Timeout(_) => Error::ConnectionTimeout,
        ConnectError::Connect(error) => from_io(error).unwrap_or(Error::DestinationUnavailable),
    }
}

fn from_io(error: &io::Error) -> Option<Error> {
    Some(match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Error::ConnectionTerminated,
        _ => return None,
    })
}

fn from_tls(error: &rustls::Error) -> Error {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Error::TlsCertificateError
        }
        rustls::Error::AlertReceived(alert) => Error::TlsAlertReceived {
            alert_id: Some(u8::from(*alert)),
            alert_message: Some(format!("{alert:?}")),
        },
        _ => Error::TlsProtocolError,
    }
}

/// The guest's own body failed.
fn from_guest(error: &Error) -> Error {
    match error {
        Error::HttpRequestBodySize(size) => Error::HttpRequestBodySize(*size),
        _ => Error::HttpProtocolError,
    }
}

fn from_hyper(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_parse_too_large() {
        Error::HttpResponseHeaderSectionSize(None)
    } else if error.is_canceled() || error.is_closed() {
        Error::ConnectionTerminated
    } else {
        Error::HttpProtocolError
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_found_behind_io_errors_and_boxes() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let nested = io::Error::other(io::Error::other(tls));
        assert!(matches!(error_code(&nested), Error::TlsCertificateError));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        assert!(matches!(
            error_code(&io::Error::other(alert)),
            Error::TlsAlertReceived {
                alert_id: Some(40),
                ..
            }
        ));
        let refused = ConnectError::Connect(io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(error_code(&refused), Error::ConnectionRefused));
        assert!(matches!(
            error_code(&ConnectError::Connect(io::Error::other("?"))),
            Error::DestinationUnavailable
        ));
    }
}
