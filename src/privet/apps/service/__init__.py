"""The inference service: HTTPS, gRPC and MQTT in front of one queue."""
