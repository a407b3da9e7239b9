from common.testing.no_latency import no_latency as no_latency  # a fixture for all tests
