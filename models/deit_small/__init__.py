"""DeiT-small/16, a vision transformer, trained from random values to tell CIFAR-100's classes apart at 224 x 224; Touvron et al. 2021."""
