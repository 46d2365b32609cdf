"""The door for OpenFeature SDKs: the OpenFeature Remote Evaluation Protocol (OFREP) 0.3."""
