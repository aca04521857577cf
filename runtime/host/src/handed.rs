//! Bodies of WASI 0.3 that a guest reads the beginning of, and then hands on. Where wasmtime takes such a stream back it forgets
//! what it had ready for the guest's next read: the rest of a piece would be lost, and what follows pass for all of it. The
//! streams here have nothing ready: what a guest leaves of a piece stays with the body. What a guest writes itself is an [`Upload`],
//! where it is a request's.

use std::any::{Any, TypeId};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Method;
use http::uri::{Authority, PathAndQuery, Scheme};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use wasmtime::component::{
    Access, Destination, FutureConsumer, FutureReader, Linker, Resource, Source, StreamProducer,
    StreamReader, StreamResult,
};
use wasmtime::{AsContextMut as _, StoreContextMut};
use wasmtime_wasi_http::p3::bindings::http::types::{
    ErrorCode, HostRequestWithStore, HostResponseWithStore, RequestOptions,
};
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{Error, FieldMap, WasiHttp, WasiHttpView as _};

use crate::error_code::error_code;
use crate::guest::Guest;
use crate::upload::{Ended, Upload};

type Store<'a> = StoreContextMut<'a, Guest>;
type Incoming = UnsyncBoxBody<Bytes, Error>;
/// What became of a message, or of its body.
type Outcome = Result<(), ErrorCode>;
type NewResponse = (
    Resource<FieldMap>,
    Option<StreamReader<u8>>,
    FutureReader<Ended>,
);
type NewRequest = (
    Resource<FieldMap>,
    Option<StreamReader<u8>>,
    FutureReader<Ended>,
    Option<Resource<RequestOptions>>,
);
/// A body as a guest has it.
type Parts = (StreamReader<u8>, FutureReader<Ended>);

/// Takes the place of what wasmtime has for this.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut types = linker.instance("wasi:http/types@0.3.0")?;
    types.func_wrap("[static]request.consume-body", read_request)?;
    types.func_wrap("[static]response.consume-body", read_response)?;
    types.func_wrap("[static]request.new", new_request)?;
    types.func_wrap("[static]response.new", new_response)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn read_request(
    mut store: Store<'_>,
    (request, outcome): (Resource<Request>, FutureReader<Outcome>),
) -> wasmtime::Result<(Parts,)> {
    let mut request = store.data_mut().http().table.delete(request)?;
    // Its body alone matters from here, however long its head says that it is.
    request.headers = FieldMap::default();
    request.scheme = Some(Scheme::HTTP);
    request.authority = Some(Authority::from_static("body"));
    request.path_with_query = Some(PathAndQuery::from_static("/"));
    let outcome = Told::by(&mut store, outcome)?;
    let (request, _) = request
        .into_http_with_getter(&mut store, outcome, Guest::http)
        .map_err(|error| error.downcast().map_or_else(|trap| trap, Into::into))?;
    Ok((Contents::read(store, request.into_body())?,))
}

fn read_response(
    mut store: Store<'_>,
    (response, outcome): (Resource<Response>, FutureReader<Outcome>),
) -> wasmtime::Result<(Parts,)> {
    let mut response = store.data_mut().http().table.delete(response)?;
    response.headers = FieldMap::default();
    let outcome = Told::by(&mut store, outcome)?;
    let response = response.into_http_with_getter(&mut store, outcome, Guest::http)?;
    Ok((Contents::read(store, response.into_body())?,))
}

fn new_request(
    mut store: Store<'_>,
    (headers, contents, mut trailers, options): NewRequest,
) -> wasmtime::Result<((Resource<Request>, FutureReader<Outcome>),)> {
    let body = match Rest::of(&mut store, contents) {
        Ok(body) => {
            // It has its own.
            trailers.close(&mut store)?;
            body.boxed_unsync()
        }
        Err(Some(contents)) => {
            Upload::new(store.as_context_mut(), contents, trailers)?.boxed_unsync()
        }
        Err(None) => {
            let access = Access::<_, WasiHttp>::new(store, Guest::http);
            return HostRequestWithStore::new(access, headers, None, trailers, options)
                .map(|made| (made,));
        }
    };
    let table = store.data_mut().http().table;
    let headers = table.delete(headers)?;
    let options = options.map(|options| table.delete(options)).transpose()?;
    let options = options.map(Into::into);
    let (request, outcome) = Request::new(Method::GET, None, None, None, headers, options, body);
    let request = table.push(request)?;
    Ok(((request, told(store, outcome)?),))
}

fn new_response(
    mut store: Store<'_>,
    (headers, contents, mut trailers): NewResponse,
) -> wasmtime::Result<((Resource<Response>, FutureReader<Outcome>),)> {
    let body = match Rest::of(&mut store, contents) {
        Ok(body) => body,
        Err(contents) => {
            let access = Access::<_, WasiHttp>::new(store, Guest::http);
            return HostResponseWithStore::new(access, headers, contents, trailers)
                .map(|made| (made,));
        }
    };
    trailers.close(&mut store)?;
    let view = store.data_mut().http();
    let headers = view.table.delete(headers)?;
    let (mut response, outcome) = Response::from_http(view.hooks, http::Response::new(body));
    response.headers = headers;
    let response = view.table.push(response)?;
    Ok(((response, told(store, outcome)?),))
}

/// Tells a guest what became of a message.
fn told(
    store: Store<'_>,
    outcome: impl Future<Output = Result<(), Error>> + Send + 'static,
) -> wasmtime::Result<FutureReader<Outcome>> {
    FutureReader::new(store, async move {
        Ok::<_, wasmtime::Error>(outcome.await.map_err(|error| error_code(&error)))
    })
}

/// Takes what a guest says became of a body.
struct Told(Option<oneshot::Sender<Outcome>>);

impl Told {
    fn by(
        store: &mut Store<'_>,
        outcome: FutureReader<Outcome>,
    ) -> wasmtime::Result<impl Future<Output = Result<(), Error>> + Send + 'static> {
        let (tell, told) = oneshot::channel();
        outcome.pipe(store, Self(Some(tell)))?;
        // Who says nothing has nothing against it.
        Ok(async { told.await.unwrap_or(Ok(())).map_err(Error::from) })
    }
}

impl FutureConsumer<Guest> for Told {
    type Item = Outcome;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        store: Store<'_>,
        mut source: Source<'_, Outcome>,
        _: bool,
    ) -> Poll<wasmtime::Result<()>> {
        let mut outcome = None;
        source.read(store, &mut outcome)?;
        if let (Some(tell), Some(outcome)) = (self.0.take(), outcome) {
            // The message may be gone.
            let _ = tell.send(outcome);
        }
        Poll::Ready(Ok(()))
    }
}

/// A body that a guest reads.
struct Contents {
    body: Rest,
    ended: Option<oneshot::Sender<Ended>>,
}

impl Contents {
    fn read(mut store: Store<'_>, body: Incoming) -> wasmtime::Result<Parts> {
        let (tell, ended) = oneshot::channel();
        let contents = Self {
            body: Rest {
                piece: Bytes::new(),
                body,
            },
            ended: Some(tell),
        };
        let contents = StreamReader::new(&mut store, contents)?;
        // Of one that is read no further nothing is wrong.
        let ended = async { Ok::<_, wasmtime::Error>(ended.await.unwrap_or(Ok(None))) };
        Ok((contents, FutureReader::new(store, ended)?))
    }

    /// Has something to read in `piece`, unless the body has ended.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        store: &mut Store<'_>,
    ) -> Poll<wasmtime::Result<Option<Ended>>> {
        while self.body.piece.is_empty() {
            let ended = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => Ok(None),
                Some(Err(error)) => Err(error_code(&error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.body.piece = data;
                        continue;
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        let view = store.data_mut().http();
                        let trailers = FieldMap::new_immutable(view.hooks, trailers);
                        Ok(Some(view.table.push(trailers)?))
                    }
                },
            };
            return Poll::Ready(Ok(Some(ended)));
        }
        Poll::Ready(Ok(None))
    }
}

impl StreamProducer<Guest> for Contents {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut store: Store<'a>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let ended = match self.poll_piece(cx, &mut store) {
            Poll::Ready(ended) => ended?,
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => return Poll::Pending,
        };
        if let Some(ended) = ended {
            if let Some(tell) = self.ended.take() {
                // The guest may not want to know.
                let _ = tell.send(ended);
            }
            return Poll::Ready(Ok(StreamResult::Dropped));
        }
        match destination.remaining(&mut store) {
            // The guest asks whether there is something to read.
            Some(0) => {}
            Some(room) => {
                let length = room.min(self.body.piece.len());
                let mut direct = destination.as_direct(store, length);
                let piece = self.body.piece.split_to(length);
                if let Some(place) = direct.remaining().get_mut(..length) {
                    place.copy_from_slice(&piece);
                }
                direct.mark_written(length);
            }
            // Another part of the host takes it all.
            None => destination.set_buffer(mem::take(&mut self.body.piece)),
        }
        Poll::Ready(Ok(StreamResult::Completed))
    }

    fn try_into(me: Pin<Box<Self>>, to: TypeId) -> Result<Box<dyn Any>, Pin<Box<Self>>> {
        if to == TypeId::of::<Self>() {
            let me: Box<Self> = Pin::into_inner(me);
            Ok(me)
        } else {
            Err(me)
        }
    }
}

/// What a guest hasn't read of a body.
struct Rest {
    /// Of the last piece that came.
    piece: Bytes,
    body: Incoming,
}

impl Rest {
    /// What is handed on; what the guest writes itself is given back.
    fn of(
        store: &mut Store<'_>,
        contents: Option<StreamReader<u8>>,
    ) -> Result<Self, Option<StreamReader<u8>>> {
        let contents = contents.ok_or(None)?;
        let contents: Contents = contents.try_into(store).map_err(Some)?;
        Ok(contents.body)
    }
}

impl Body for Rest {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.piece.is_empty() {
            Pin::new(&mut self.body).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(mem::take(&mut self.piece)))))
        }
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let piece = self.piece.len() as u64;
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(piece));
        }
        hint.set_lower(hint.lower().saturating_add(piece));
        hint
    }
}
