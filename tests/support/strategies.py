"""Strategies and settings for hypothesis."""
from hypothesis import settings
from hypothesis import strategies as st

# the same examples in every run, so that failures are reproducible
many = settings(max_examples=100, deadline=None, derandomize=True, database=None)

seeds = st.integers(0, 2 ** 32)
alphas = st.floats(-4., 4.).map(lambda exponent: 10. ** exponent)
batch_sizes = st.integers(1, 300)
implementations = st.sampled_from(['chunked', 'reference'])
booleans = st.booleans()
