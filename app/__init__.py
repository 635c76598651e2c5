"""The Streamlit app: shows what analysis reads and pruning makes; computes nothing itself."""
