"""The second stage: crops around the located points, and the network that grades them."""
