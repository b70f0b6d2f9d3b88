"""Models and images on a host before anything is stopped for them."""
