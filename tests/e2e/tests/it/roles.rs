//! What those may do who have Kubernetes' own roles in a namespace.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use wisp_e2e::{PATIENCE, installed};

/// Would fail if who may view a namespace couldn't see its functions, or could change them, or who may edit it couldn't.
#[tokio::test]
async fn who_may_edit_a_namespace_may_edit_its_functions() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let space = wisp.space("roles")?;
    for (role, user) in [("view", "viewer"), ("edit", "editor")] {
        let role_of = format!("--clusterrole={role}");
        let user = format!("--user={user}");
        space.kubectl(&["create", "rolebinding", role, &role_of, &user])?;
    }
    for (user, verb, what, expected) in [
        ("viewer", "list", "functions.wisp.dev", true),
        ("viewer", "watch", "runtimepools.wisp.dev", true),
        ("viewer", "get", "functions.wisp.dev/scale", true),
        ("viewer", "patch", "functions.wisp.dev", false),
        ("viewer", "patch", "functions.wisp.dev/scale", false),
        ("editor", "get", "functions.wisp.dev", true),
        ("editor", "patch", "functions.wisp.dev", true),
        ("editor", "delete", "runtimepools.wisp.dev", true),
        ("editor", "patch", "functions.wisp.dev/scale", true),
        ("editor", "patch", "functions.wisp.dev/status", false),
        ("nobody", "list", "functions.wisp.dev", false),
    ] {
        let began = Instant::now();
        let may = || {
            let (user, (kind, part)) = (
                format!("--as={user}"),
                what.split_once('/').unwrap_or((what, "")),
            );
            let part = format!("--subresource={part}");
            let asked = ["auth", "can-i", verb, kind, &part, &user];
            // Where they may not, kubectl fails.
            space.kubectl(&asked).is_ok()
        };
        // Kubernetes adds what there is to its roles a moment later.
        while may() != expected {
            ensure!(
                began.elapsed() < PATIENCE,
                "{user} may {verb} {what}: {}",
                !expected
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}
