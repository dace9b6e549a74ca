"""SMT, sparse matrix tuning: the blocks of weights with the largest gradients learn."""
