{{/* What a node and the migration have in common. */}}

{{- define "segmentd.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "segmentd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "segmentd.databaseEnv" -}}
- name: SEGMENTD_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.urlSecret.name }}
      key: {{ .Values.database.urlSecret.key }}
{{- end }}

{{/* A setting from a secret: (list VARIABLE reference) */}}
{{- define "segmentd.secretEnv" -}}
{{- $reference := index . 1 }}
{{- if $reference.name }}
- name: {{ index . 0 }}
  valueFrom:
    secretKeyRef:
      name: {{ $reference.name }}
      key: {{ $reference.key }}
{{- end }}
{{- end }}

{{- define "segmentd.settingsEnv" -}}
{{- range $name, $value := .Values.settings }}
- name: SEGMENTD_{{ upper $name }}
  {{- /* Helm reads every number as a floating one, and would write a large one with an exponent. */}}
  value: {{ if and (kindIs "float64" $value) (eq $value (floor $value)) }}{{ $value | int64 | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end }}

{{- define "segmentd.env" -}}
{{ include "segmentd.databaseEnv" . }}
{{- include "segmentd.secretEnv" (list "SEGMENTD_ADMIN_TOKEN" .Values.access.adminTokenSecret) }}
{{- include "segmentd.secretEnv" (list "SEGMENTD_JWT_KEY" .Values.access.jwtKeySecret) }}
{{- include "segmentd.secretEnv" (list "SEGMENTD_REPORT_KEY" .Values.reports.linkKeySecret) }}
{{- if .Values.access.jwksConfigMap.name }}
- name: SEGMENTD_JWT_JWKS_FILE
  value: /etc/segmentd/jwks/{{ .Values.access.jwksConfigMap.key }}
{{- end }}
- name: SEGMENTD_GRPC_PORT
  value: {{ .Values.grpc.enabled | ternary "8081" "0" | quote }}
{{- if and .Values.grpc.enabled .Values.grpc.tlsSecret }}
- name: SEGMENTD_GRPC_TLS_CERT
  value: /etc/segmentd/grpc/tls.crt
- name: SEGMENTD_GRPC_TLS_KEY
  value: /etc/segmentd/grpc/tls.key
{{- end }}
{{- if .Values.reports.store }}
- name: SEGMENTD_REPORT_STORE
  value: {{ .Values.reports.store | quote }}
{{- end }}
{{- include "segmentd.settingsEnv" . }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
