//! Who may use the admin port: everybody asks whether the process lives and is ready; what is shown needs the role `read` without a kind, and what
//! changes something the role `admin`.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use berth_shared::auth::{Refusal, Role};
use berth_shared::problem::Code;

use super::Admin;

pub(super) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if matches!(path, "/livez" | "/readyz") || (path == "/metrics" && admin.metrics_open) {
        return next.run(request).await;
    }
    let role = match *request.method() {
        Method::GET | Method::HEAD => Role::Read,
        _ => Role::Admin,
    };
    let headers = request.headers().get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes);
    let allowed = admin.guard.authenticate(headers).and_then(|who| admin.guard.authorize_all(&who, role));
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refusal) => {
            let head = match refusal {
                Refusal::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Forbidden"),
                Refusal::NoKeys => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable.as_str(), "Unavailable"),
                _ => (StatusCode::UNAUTHORIZED, "unauthenticated", "Unauthenticated"),
            };
            let mut response = admin.problem(head, &refusal.to_string(), request.uri());
            let challenge = HeaderValue::from_static(refusal.challenge());
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            response
        }
    }
}
