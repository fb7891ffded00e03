package main

import (
	"context"
	"errors"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
)

// exportTime is how long the last spans may take to leave when the program ends.
const exportTime = 5 * time.Second

// setUpTracing exports spans where OTEL_EXPORTER_OTLP_ENDPOINT says, and nothing without it. The function that it returns
// sends what is left.
func setUpTracing(ctx context.Context) (func() error, error) {
	if os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return func() error { return nil }, nil
	}
	exporter, err := otlptracegrpc.New(ctx)
	if err != nil {
		return nil, err
	}
	// What OTEL_SERVICE_NAME says wins.
	described, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName("search")), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, err
	}
	provider := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(described))
	otel.SetTracerProvider(provider)
	return func() error {
		// The program may be ending because ctx did.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTime)
		defer cancel()
		return provider.Shutdown(ctx)
	}, nil
}
