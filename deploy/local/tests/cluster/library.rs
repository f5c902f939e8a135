//! The client library against a real cluster: what its own tests have a script for is true.

use berth_client::{Client, Code, Consistency};
use serde_json::json;

use crate::client::PATIENCE;
use crate::program::Local;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_library_finds_a_gateway_and_does_what_it_says() {
    let local = Local::start(&["--ephemeral"]).await;
    // Nobody listens at the first address.
    let client = Client::builder("http://127.0.0.1:1").address(&local.greeting.url).deadline(PATIENCE).build().unwrap();
    let cart = client.entity("cart", "a/ü");
    let tea = json!({ "sku": "tea", "quantity": 2, "unitPriceCents": 450 });
    let first = cart.execute("add-item", &tea).idempotency_key("once").if_absent().await.unwrap();
    assert_eq!((first.version, first.replayed, &first.reply), (1, false, &json!({ "totalCents": 900 })));
    let again = cart.execute("add-item", &tea).idempotency_key("once").if_absent().await.unwrap();
    assert_eq!((again.version, again.replayed, &again.state), (1, true, &first.state));
    let error = cart.execute("checkout", ()).idempotency_key("once").await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (Some(&Code::KeyReused), false));
    let error = cart.execute("checkout", ()).if_version(7).await.unwrap_err();
    assert_eq!((error.code(), error.problem().unwrap().current_version), (Some(&Code::VersionMismatch), Some(1)));
    let minimal = cart.execute("checkout", ()).if_version(1).without_state().await.unwrap();
    assert_eq!((minimal.version, minimal.state), (2, None));
    let error = cart.execute("checkout", ()).await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::Rejected));
    assert!(error.reason().is_some());

    let now = cart.get().consistency(Consistency::Strict).await.unwrap();
    assert_eq!((now.version, &now.state["status"]), (2, &json!("checkedOut")));
    assert_eq!(cart.get().version(1).await.unwrap().state["status"], "open");
    let page = cart.events().limit(1).await.unwrap();
    assert_eq!((page.events[0].event_type.as_str(), page.next), ("item-added", Some(1)));
    assert_eq!(cart.events().after(1).await.unwrap().events.len(), 1);

    client.entity("cart", "b").execute("add-item", &tea).await.unwrap();
    let page = client.list("cart").limit(1).await.unwrap();
    assert_eq!((page.entities[0].id.as_str(), page.entities[0].version), ("a/ü", 2));
    let rest = client.list("cart").limit(1).cursor(page.next.unwrap()).await.unwrap();
    assert_eq!((rest.entities[0].id.as_str(), rest.next), ("b", None));
    assert!(client.list("cart").prefix("c").await.unwrap().entities.is_empty());

    let deleted = cart.delete().if_version(2).await.unwrap();
    assert_eq!((deleted.version, deleted.replayed), (Some(3), false));
    assert_eq!(cart.get().await.unwrap_err().code(), Some(&Code::Deleted));
    let error = client.entity("cart", "nobody").delete().await.unwrap_err();
    assert_eq!(error.code(), Some(&Code::NotFound));

    assert!(client.session_token().is_some() && client.session().session_token().is_none());
    assert_eq!(client.kind("cart").await.unwrap()["kind"], "cart");
    assert_eq!(client.kinds().await.unwrap()["kinds"].as_array().unwrap().len(), 4);
    local.stop("INT").await;
}
