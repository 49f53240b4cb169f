"""The tkeedge.io/v1 types, and the CustomResourceDefinitions made from them."""
