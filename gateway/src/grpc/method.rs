//! The methods that are served, by their paths. Pure.

use tonic_health::pb::health_server;

use super::protobuf::entities_server;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Execute,
    Delete,
    Get,
    Watch,
    HealthCheck,
    HealthWatch,
    Reflect,
    Other,
}

pub(super) const METHODS: [Method; 8] = [
    Method::Execute,
    Method::Delete,
    Method::Get,
    Method::Watch,
    Method::HealthCheck,
    Method::HealthWatch,
    Method::Reflect,
    Method::Other,
];

const REFLECTIONS: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];

impl Method {
    pub(super) fn of(path: &str) -> Self {
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return Self::Other;
        };
        match (service, method) {
            (entities_server::SERVICE_NAME, "Execute") => Self::Execute,
            (entities_server::SERVICE_NAME, "Delete") => Self::Delete,
            (entities_server::SERVICE_NAME, "Get") => Self::Get,
            (entities_server::SERVICE_NAME, "Watch") => Self::Watch,
            (health_server::SERVICE_NAME, "Check") => Self::HealthCheck,
            (health_server::SERVICE_NAME, "Watch") => Self::HealthWatch,
            (service, "ServerReflectionInfo") if REFLECTIONS.contains(&service) => Self::Reflect,
            _ => Self::Other,
        }
    }

    /// Whether it asks something of an entity.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Execute | Self::Delete | Self::Get | Self::Watch)
    }

    /// Whether it is of the health service.
    pub(super) fn is_health(self) -> bool {
        matches!(self, Self::HealthCheck | Self::HealthWatch)
    }

    /// The name of a call's span, and in metrics.
    pub(super) fn span(self) -> &'static str {
        match self {
            Self::Execute => "berth.v1.Entities/Execute",
            Self::Delete => "berth.v1.Entities/Delete",
            Self::Get => "berth.v1.Entities/Get",
            Self::Watch => "berth.v1.Entities/Watch",
            Self::HealthCheck => "grpc.health.v1.Health/Check",
            Self::HealthWatch => "grpc.health.v1.Health/Watch",
            Self::Reflect => "grpc.reflection.ServerReflection/ServerReflectionInfo",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_methods() {
        assert!(METHODS.iter().enumerate().all(|(place, method)| *method as usize == place));
        for method in METHODS.into_iter().filter(|method| !matches!(method, Method::Reflect | Method::Other)) {
            assert_eq!(Method::of(&format!("/{}", method.span())), method);
        }
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            assert_eq!(Method::of(&path), Method::Reflect);
        }
        for path in
            ["", "/", "/berth.v1.Entities", "/berth.v1.Entities/execute", "/berth.v1.Entities/Get/", "/v1/kinds"]
        {
            assert_eq!(Method::of(path), Method::Other, "{path}");
        }
    }
}
