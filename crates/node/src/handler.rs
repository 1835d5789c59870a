//! Services by name, with their types erased, for requests that arrive as bytes.

use bytes::Bytes;
use slipring_model::Error;
use slipring_service::{Access, Cells, Context, Service};

/// A service whose requests and responses are bytes.
pub(crate) trait Handler: Send + Sync {
    fn describe(&self, request: &Bytes) -> Result<(Bytes, Access), Error>;
    fn execute(&self, context: &Context, request: Bytes, cells: &mut Cells<'_>) -> Result<Bytes, Error>;
}

/// The handler of a typed service.
pub(crate) struct Erased<S: 'static>(pub(crate) &'static S);

impl<S: Service> Handler for Erased<S> {
    fn describe(&self, request: &Bytes) -> Result<(Bytes, Access), Error> {
        let request = self.0.decode_request(request.clone())?;
        Ok((self.0.key(&request).clone(), self.0.access(&request)))
    }

    fn execute(&self, context: &Context, request: Bytes, cells: &mut Cells<'_>) -> Result<Bytes, Error> {
        let request = self.0.decode_request(request)?;
        Ok(self.0.encode_response(&self.0.execute(context, request, cells)))
    }
}
