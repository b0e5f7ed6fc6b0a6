"""The libraries that numbaconv is measured against."""
