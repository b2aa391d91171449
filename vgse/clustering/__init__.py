"""The clustering room: backbone, network, objective, neighbour bank and training loop. Pure torch, no ray."""
